# syntax=docker/dockerfile:1
# coss-bench with the versions that the tests pass with, run as a user without root.
#
#   docker build --tag coss-bench .                                   # CPU
#   docker build --build-arg TORCH=cuda --tag coss-bench:cuda .       # then docker run --gpus all
#   docker run --rm --volume "$PWD/work:/work" coss-bench             # coss-bench quickstart
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

# Which build of PyTorch, "cpu" or "cuda". That of PyPI brings the CUDA libraries along.
ARG TORCH=cpu
# Extras of the package, separated by commas.
ARG EXTRAS=models,hub,report

# What OpenCV loads (imagecorruptions-imaug), and Pango, which prints PDF.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libgl1 libglib2.0-0 libharfbuzz-subset0 libpango-1.0-0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY robustbench_coss ./robustbench_coss
COPY pretrain ./pretrain
COPY evaluations ./evaluations

# The CPU build calls itself 2.14.1+cpu, which the constraint torch==2.14.1 takes.
RUN case "$TORCH" in \
      cpu) pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
             $(grep --extended-regexp '^(torch|torchvision)==' constraints.txt) ;; \
      cuda) ;; \
      *) echo "TORCH must be cpu or cuda, got $TORCH" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]" \
    && rm -rf /src/*

RUN useradd --create-home --uid 1000 coss && install --directory --owner coss --group coss /work
USER coss
WORKDIR /work
ENV MPLCONFIGDIR=/tmp/matplotlib

ENTRYPOINT ["coss-bench"]
CMD ["quickstart"]
