"""Checking a submission: is the bundle whole, does it agree with itself, do samples reproduce?

What cannot be checked at all raises; what was checked and is wrong is in the report. Measuring is
that of `evaluations.running.job`: a condition that builds on earlier ones gets them measured
again, too.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_coss.analysis.configurations import check_record
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig, probe_path, read_probe
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.protocol import Condition, Suite
from robustbench_coss.evaluations.running.job import Job, Measured, Opened, units
from robustbench_coss.evaluations.running.runner import describe_model, record_key
from robustbench_coss.evaluations.submissions.agreement import (
    ALPHA,
    OTHER,
    SAME,
    TRAINED,
    Pair,
    Trial,
    corrected,
    try_pairs,
)
from robustbench_coss.evaluations.submissions.bundle import ENCODER, Bundle, open_bundle
from robustbench_coss.files import canonical_json, slug, write_atomically
from robustbench_coss.machine.environment import check_writable, device_name, versions
from robustbench_coss.models.checkpoint import FILE_NAME, Checkpoint, load_checkpoint
from robustbench_coss.models.load import load_model
from robustbench_coss.records.migrate import migrate
from robustbench_coss.records.record import SCHEMA, Cell, Record, check_form, from_json
from robustbench_coss.records.training import recipe_in
from robustbench_coss.seeds import permutation

FACTS_APART = 0.05  # of the largest number beside it: how far numbers of `extra` may be apart


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    ok: bool
    text: str


@dataclass(frozen=True)
class CellPairs:
    """A condition that was measured again: its columns by name, and how often both agree."""

    title: str
    pairs: dict[str, Pair]
    trials: dict[str, Trial]


@dataclass
class Report:
    """What was found in a bundle.

    Attributes:
        seed: the cells were drawn with.
        facts: what was checked beside outcomes.
        cells: what was measured again.
        together: trials of several cells at once.
        notes: what to know about the comparison.
    """

    seed: int
    facts: list[Finding] = field(default_factory=list)
    cells: list[CellPairs] = field(default_factory=list)
    together: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """Every line: facts, cells, cells together."""
        trials = [t for cell in self.cells for t in cell.trials.values()] + self.together
        passed = {id(t): min(p) >= ALPHA for t, p in zip(trials, corrected(trials), strict=True)}
        lines = list(self.facts)
        for cell in self.cells:
            sound = all(passed[id(t)] for t in cell.trials.values())
            inside = all(pair.inside for pair in cell.pairs.values())
            lines.append(Finding(sound and inside, _cell_line(cell)))
        for t in self.together:
            text = f"{t.about}: {t.differ} of {t.images} images differ"
            if t.differ:
                text += f", {t.higher} recorded higher and {t.lower} lower"
            lines.append(Finding(passed[id(t)], text))
        return lines

    @property
    def reproduced(self) -> bool:
        """Whether every line is in order."""
        return all(finding.ok for finding in self.findings())

    @property
    def exact(self) -> bool:
        """Whether every outcome measured again equals the recorded one, to the last bit."""
        return all(
            np.array_equal(p.recorded, p.again, equal_nan=p.recorded.dtype.kind == "f")
            for cell in self.cells
            for p in cell.pairs.values()
        )


@dataclass(frozen=True)
class Plan:
    """What a verification does; see `coss-bench verify`.

    Attributes:
        cells: conditions drawn per record.
        seed: of the draw.
        retrain_probe: measure with a newly trained probe as well.
        corruption_root: folder of ready-made corrupted images.
    """

    seed: int
    cells: int = 5
    retrain_probe: bool = False
    device: str = "auto"
    batch_size: int = 256
    data_root: Path = Path("data")
    download: bool = False
    corruption_root: Path | None = None


def verify(
    path: Path, plan: Plan, encoder: str | None = None, progress: Progress | None = None
) -> Report:
    """Check a bundle and measure a random sample of its conditions again.

    Args:
        path: the bundle.
        encoder: as `load_model`; None takes the one in the bundle.

    Raises:
        CossError: the bundle is damaged, was changed, contradicts itself or cannot be measured
            here: no encoder or another one, other data, a suite in another version or with
            settings that this version does not have.
    """
    for option, value in (("cells", plan.cells), ("batch size", plan.batch_size)):
        if value < 1:
            raise CossError(f"the number of {option} must be at least 1, got {value}")
    bundle = open_bundle(path)
    contents = {name: bundle.json(name) for name in bundle.names if name.startswith("records/")}
    if not contents:
        raise CossError(f"{path} holds no records")
    for name, content in contents.items():
        _check_content(bundle, name, content)
    report = Report(plan.seed)
    size = f"{len(bundle.names)} files as listed, {len(contents)} records of the form of a record"
    report.facts.append(Finding(True, size))
    with tempfile.TemporaryDirectory(prefix="coss-verify-") as folder:
        load = _encoder(bundle, encoder, Path(folder))
        for group in _alike(contents):
            for retrain in (False, True) if plan.retrain_probe else (False,):
                _verify_group(bundle, group, load, plan, Path(folder), retrain, report, progress)
    return report


def _check_content(bundle: Bundle, name: str, content: Any) -> None:
    check_form(content, f"{bundle.path}: {name}")
    model, data, probe = content["model"], content["dataset"], content["model"]["probe"]
    if model["checkpoint_sha256"] != bundle.manifest["checkpoint_sha256"]:
        raise CossError(f"{bundle.path}: {name} is of another checkpoint than the manifest states")
    if not content["complete"]:
        raise CossError(f"{bundle.path}: {name} is not complete")
    sha256 = model["checkpoint_sha256"]
    key = record_key(
        sha256,
        f"own head of {sha256}" if probe.get("own_head") else probe["key"],
        data,
        (content["suite"], content["suite_version"], content["suite_config"]),
        content["seed"],
        content["schema"],
    )
    if key != content["key"]:
        raise CossError(
            f"{bundle.path}: the key of {name} is not that of its settings, images and probe; "
            "the record was changed after `coss-bench eval`"
        )


def _encoder(bundle: Bundle, encoder: str | None, folder: Path) -> Callable[[], Checkpoint]:
    """What loads the encoder, which is known to be the one that was measured."""
    if encoder is not None:
        load = partial(load_model, encoder)
    elif ENCODER in bundle.names:
        file = folder / slug(str(bundle.manifest["model"]["name"])) / FILE_NAME
        write_atomically(file, bundle.read(ENCODER))
        load = partial(load_checkpoint, file)
    else:
        raise CossError(
            f"{bundle.path} holds no encoder; pass the one with the SHA-256 "
            f"{bundle.manifest['checkpoint_sha256']} by --encoder"
        )
    found = load().sha256
    if found != bundle.manifest["checkpoint_sha256"]:
        raise CossError(
            f"{encoder or f'the encoder in {bundle.path}'} has the SHA-256 {found[:16]}…, and "
            f"{bundle.manifest['checkpoint_sha256'][:16]}… was measured; pass that one by --encoder"
        )
    return load


def _alike(contents: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Records that were measured on the same images with the same classifier."""
    groups: dict[str, dict[str, Any]] = {}
    for name, content in contents.items():
        data, probe = content["dataset"], content["model"]["probe"]
        key = canonical_json([data["name"], data["limit"], content["seed"], probe.get("key")])
        groups.setdefault(key, {})[name] = content
    yield from groups.values()


def _verify_group(
    bundle: Bundle,
    contents: Mapping[str, Any],
    load: Callable[[], Checkpoint],
    plan: Plan,
    folder: Path,
    retrain: bool,
    report: Report,
    progress: Progress | None,
) -> None:
    first = next(iter(contents.values()))
    data, probe = first["dataset"], first["model"]["probe"]
    own_head = bool(probe.get("own_head"))
    if own_head and retrain:
        return  # there is no probe
    results = folder / ("retrained" if retrain else "bundled")
    job = Job(
        load if own_head else partial(_without_head, load),
        data["name"],
        results,
        data["limit"],
        plan.batch_size,
        plan.device,
        first["seed"],
        plan.data_root,
        plan.download,
        ProbeConfig() if own_head else ProbeConfig.of(probe["settings"]),
        {c["suite"]: _options(c, plan.corruption_root) for c in contents.values()},
    )
    opened = Opened(job, progress)
    try:
        records = {
            name: _decode(f"{bundle.path}: {name}", content, opened)
            for name, content in contents.items()
        }
        check_writable(results / "probes")
        if not own_head:
            _check_probe(bundle, opened, probe, retrain)
        here = versions(), device_name(opened.device)
        shares = [SAME if (r.versions, r.device) == here else OTHER for r in records.values()]
        if not retrain:
            _check_facts(opened, records, here[1], max(shares), report)
        where = " (probe trained anew)" if retrain else ""
        everything: list[Pair] = []
        for (name, record), share in zip(records.items(), shares, strict=True):
            everything += _measure_again(opened, record, plan, name, where, share, report)
        if len(records) > 1 and everything:
            about = f"{data['name']}, all {len(everything)} cells together{where}"
            report.together.append(try_pairs(about, everything, max(shares)))
    finally:
        opened.close()


def _without_head(load: Callable[[], Checkpoint]) -> Checkpoint:
    return replace(load(), head=None, classes=None)


def _options(content: Mapping[str, Any], corruption_root: Path | None) -> dict[str, Any]:
    """The options that a record was made with, but for what is of the machine it was made on."""
    content = migrate(content, SCHEMA)
    if content["suite_config"].get("backend") == "ready-made":
        if corruption_root is None:
            raise CossError(
                "the record of suite 'corruption' is of ready-made pictures; pass their folder by "
                "--corruption-root"
            )
        return {"root": corruption_root}
    return {k: v for k, v in content["options"].items() if k not in ("root", "workers")}


def _decode(name: str, content: dict[str, Any], opened: Opened) -> Record:
    """A record that fits the data, suite and settings here."""
    data, test = content["dataset"], opened.test
    here = {
        "role": "test",
        "fingerprint": test.fingerprint,
        "size": test.size,
        "classes": len(test.classes),
        "n": len(opened.index),
    }
    for what, value in here.items():
        if data[what] != value:
            raise CossError(
                f"{name} was measured on other images: {what} is {data[what]} there and {value} "
                f"of {data['name']!r} in {opened.job.data_root}"
            )
    record = from_json(content, name, count=data["n"])
    check_record(name, record)
    if not np.array_equal(record.index, opened.index) or not np.array_equal(
        record.label, opened.labels.numpy()
    ):
        raise CossError(f"{name} lists other images or labels than the data set has")
    suite = opened.suite(record.suite)
    if record.suite_version != suite.version:
        raise CossError(
            f"{name} is of version {record.suite_version} of suite {suite.name!r}, and this is "
            f"{suite.version}; verify it with robustbench-coss "
            f"{record.versions.get('robustbench-coss', 'as recorded')}"
        )
    mine = suite.config()
    if canonical_json(mine) != canonical_json(record.suite_config):
        keys = sorted(
            k
            for k in mine.keys() | record.suite_config.keys()
            if mine.get(k) != record.suite_config.get(k)
        )
        raise CossError(
            f"{name} has settings of suite {suite.name!r} that cannot be had here: "
            f"{', '.join(keys) or 'other types'}"
        )
    return record


def _check_probe(bundle: Bundle, opened: Opened, probe: Mapping[str, Any], retrain: bool) -> None:
    """Make the bundle's probe the one that is used, unless a new one is to be trained."""
    key = probe["key"]
    if opened.classifier_key != key:
        raise CossError(
            f"{bundle.path}: the probe is not of the training images of {opened.job.dataset!r} in "
            f"{opened.job.data_root} by the settings stated"
        )
    if retrain:
        return
    name = f"probes/{key}.safetensors"
    if name not in bundle.names:
        raise CossError(f"{bundle.path} lacks {name}, which a record was measured with")
    path = probe_path(opened.job.results, key)
    write_atomically(path, bundle.read(name))
    dim, classes = opened.checkpoint.encoder.dim, len(opened.test.classes)
    # A damaged probe would be trained again, quietly.
    if read_probe(path, key, dim, classes) is None:
        raise CossError(f"{bundle.path}: {name} is damaged or no probe of this encoder")


def _check_facts(
    opened: Opened, records: Mapping[str, Record], device: str, share: float, report: Report
) -> None:
    _ = opened.subject  # describes the probe
    found = describe_model(opened)
    recorded = "; ".join(dict.fromkeys(record.device for record in records.values()))
    report.notes.append(
        "device and versions are those recorded"
        if share == SAME
        else f"device or versions are others: recorded on {recorded}; measured again on {device}"
    )
    for name, record in records.items():
        mine = found
        if stated := recipe_in(record.model):  # early records do not hold all of it
            same = {key: value for key, value in recipe_in(found).items() if key in stated}
            mine = found | {"training": found["training"] | {"recipe": same}}
        facts = (mine.keys() | record.model.keys()) - {"name"}
        wrong = sorted(k for k in facts if mine.get(k) != record.model.get(k))
        if wrong:
            text = f"{name}: {', '.join(wrong)} of the model are not those of encoder and probe"
            report.facts.append(Finding(False, text))


def _measure_again(
    opened: Opened,
    record: Record,
    plan: Plan,
    name: str,
    where: str,
    share: float,
    report: Report,
) -> list[Pair]:
    """Measure drawn conditions of a record; gives the pairs of its main column."""
    suite = opened.suite(record.suite)
    conditions = suite.conditions(opened.subject)
    todo = _drawn(suite, conditions, plan, record)
    n = len(opened.index)
    opened.progress.plan(len(todo) * n)
    cells = {cell.condition: cell for cell in record.cells}
    missing = [c.name for c in conditions if c.name not in cells]
    if missing:
        report.facts.append(Finding(False, f"{name} lacks {len(missing)} conditions: {missing[0]}"))
    pairs: dict[str, list[Pair]] = {}
    summary: dict[str, Any] = {}
    for unit in units(suite, todo, [], n, n):
        for found in opened.measure(unit):
            summary = found.summary
            if found.condition.name in cells:
                trained = share > SAME and found.condition.kind in suite.trains_for
                mine = _compare(
                    found,
                    cells[found.condition.name],
                    f"{record.suite} {found.condition.name}{where}",
                    TRAINED if trained else share,
                    report,
                )
                if not trained:
                    for column, pair in mine.items():
                        pairs.setdefault(column, []).append(pair)
    if not where:
        _check_rest(suite, conditions, record, summary, name, report)
    for column, several in pairs.items():
        if len(several) > 1:
            about = f"{record.suite} {column}, {len(several)} cells together{where}"
            report.together.append(try_pairs(about, several, share))
    return pairs.get("correct", [])


def _drawn(
    suite: Suite, conditions: Sequence[Condition], plan: Plan, record: Record
) -> list[Condition]:
    """A random sample of conditions, with those that they build on."""
    names = (plan.seed, record.dataset["name"], suite.name)
    order = permutation(len(conditions), "verify", *names)[: plan.cells]
    chosen = {conditions[i].name for i in order.tolist()}
    if suite.linked:  # a condition needs those before it in its group
        for group in {c.group for c in conditions}:
            members = [c.name for c in conditions if c.group == group]
            last = max((i for i, m in enumerate(members) if m in chosen), default=-1)
            chosen |= set(members[: last + 1])
    return [c for c in conditions if c.name in chosen]


def _compare(
    found: Measured, cell: Cell, title: str, share: float, report: Report
) -> dict[str, Pair]:
    """Put a condition into the report; gives its columns."""
    if found.columns.keys() != cell.outcomes.keys() or any(
        column.dtype != cell.outcomes[k].dtype for k, column in found.columns.items()
    ):
        columns = ", ".join(f"{k} ({v.dtype})" for k, v in sorted(cell.outcomes.items()))
        text = f"{title}: recorded columns {columns} are not the suite's"
        report.facts.append(Finding(False, text))
        return {}
    if bool(cell.problem) != bool(found.nonfinite):
        count = f"{found.nonfinite} outputs of the model are not finite"
        report.facts.append(Finding(False, f"{title}: {count}, recorded: {cell.problem!r}"))
    if (cell.group, cell.level) != (found.condition.group, found.condition.level):
        report.facts.append(Finding(False, f"{title}: group or level are not the suite's"))
    pairs = {k: Pair(cell.outcomes[k], found.columns[k]) for k in found.columns}
    trials = {k: try_pairs(f"{title} {k}", [pair], share) for k, pair in pairs.items()}
    report.cells.append(CellPairs(title, pairs, trials))
    return pairs


def _check_rest(
    suite: Suite,
    conditions: Sequence[Condition],
    record: Record,
    summary: Mapping[str, Any],
    name: str,
    report: Report,
) -> None:
    """Hold what follows from outcomes to them: derived cells, metrics, checks, facts."""
    names = {c.name for c in conditions}
    measured = [cell for cell in record.cells if cell.condition in names]
    rest = [cell for cell in record.cells if cell.condition not in names]
    wrong = []
    try:
        derived = suite.derived(measured)
        if [_plain(c) for c in derived] != [_plain(c) for c in rest]:
            wrong.append("derived conditions")
        if suite.metrics(conditions) != record.metrics or suite.axis != record.axis:
            wrong.append("metrics or axis")
        checks = [(c.name, bool(c.passed)) for c in suite.checks(record.cells)]
        if checks != [(c.name, c.passed) for c in record.checks]:
            wrong.append("sanity checks")
    except (KeyError, ValueError, IndexError) as error:  # conditions that it needs are not there
        wrong.append(f"conditions ({type(error).__name__}: {error})")
    if not _close(record.extra, dict(summary)):
        wrong.append("facts about the model (extra)")
    text = f"{name}: derived conditions, metrics, checks and facts follow from the outcomes"
    if wrong:
        text = f"{name}: not what follows from outcomes and model: {', '.join(wrong)}"
    report.facts.append(Finding(not wrong, text))


def _plain(cell: Cell) -> tuple[Any, ...]:
    columns = {k: (v.dtype.name, v.tobytes()) for k, v in sorted(cell.outcomes.items())}
    return cell.condition, cell.group, cell.level, columns, cell.problem


def _close(a: Any, b: Any, scale: float = 0.0) -> bool:
    """Whether two JSON-able values are the same but for rounding of their numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k], scale) for k in a)
    if isinstance(a, list) and isinstance(b, (list, tuple)):
        scale = max(scale, _largest(b))
        return len(a) == len(b) and all(_close(x, y, scale) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool) or not _is_number(a) or not _is_number(b):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=FACTS_APART, abs_tol=FACTS_APART * scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _largest(values: Any) -> float:
    if isinstance(values, (list, tuple)):
        return max((_largest(value) for value in values), default=0.0)
    return abs(float(values)) if _is_number(values) else 0.0


def _cell_line(cell: CellPairs) -> str:
    main = "correct" if "correct" in cell.pairs else next(iter(cell.pairs))
    pair = cell.pairs[main]
    (low, high), again = pair.interval, float(np.mean(pair.again, dtype=np.float64))
    recorded = float(np.mean(pair.recorded, dtype=np.float64))
    if pair.recorded.dtype == bool:
        numbers = f"{100 * recorded:.1f} % ({100 * low:.1f} … {100 * high:.1f}), "
        numbers += f"again {100 * again:.1f} %"
    else:
        numbers = f"{main} {recorded:.4g} ({low:.4g} … {high:.4g}), again {again:.4g}"
    equal = [f"{k} {t.images - t.differ}" for k, t in cell.trials.items()]
    return f"{cell.title}: {numbers}; equal: {', '.join(equal)} of {pair.again.size}"
