"""`python -m robustbench_coss` is `coss-bench`."""

from robustbench_coss.cli import main

if __name__ == "__main__":
    main()
