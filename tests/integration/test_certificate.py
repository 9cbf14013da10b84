"""A certificate can be checked without its store and model. Forgeries and nondeterministic programs are found."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.commands.cli import main
from tasks.prove.archive import unpack
from tasks.prove.certify import certify
from tasks.prove.check import certificate_digest, check, check_artifacts, check_facts, check_files
from tasks.prove.evidence import CERTIFICATE_FILE, MOST_ROWS, STORE, Evidence, open_evidence
from tasks.prove.findings import CLOCK, GRADE, OUTPUT, RECORD, RUN_TO_RUN, Row
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.reporting.samples import Sample
from tests.integration.certificate_world import (
    ANSWER,
    BLOCK,
    STEADY,
    publish_evaluation,
    publish_inputs,
    rewrite,
    take_samples,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("certificates") / "store"))


@pytest.fixture(scope="module")
def inputs(store: Store) -> dict[str, ArtifactRef]:
    return publish_inputs(store)


@pytest.fixture(scope="module")
def samples(store: Store, inputs: dict[str, ArtifactRef]) -> list[Sample]:
    return take_samples(store, inputs, STEADY)


@pytest.fixture(scope="module")
def archive(store: Store, inputs: dict[str, ArtifactRef], samples: list[Sample]) -> Path:
    output = Path(store.root).parent / "honest.tar"
    certify(store, publish_evaluation(store, inputs, samples), "mine", {}, output)
    return output


@pytest.fixture
def opened(archive: Path, tmp_path: Path) -> Evidence:
    return open_evidence(archive, tmp_path / "opened")


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.what: row for row in rows}


def test_a_certificate_holds_elsewhere(
    store: Store,
    inputs: dict[str, ArtifactRef],
    samples: list[Sample],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands repeat every program, grade, interval, comparison and report from the tar alone."""
    before = take_samples(store, inputs, STEADY | {"a/0": ANSWER.format(1)})
    refs = [publish_evaluation(store, inputs, taken).location for taken in (samples, before)]
    monkeypatch.setenv("TIRFLOW_STORE", store.root)
    output = tmp_path / "compared.tar"
    assert main(["certify", refs[0], "--against", refs[1], "--output", str(output)]) == 0
    digest = capsys.readouterr().out.split()[-1]
    monkeypatch.setenv("TIRFLOW_STORE", str(tmp_path / "none"))
    assert main(["check", str(output), "--expect", digest, "--json"]) == 0
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    calls = [call for sample in (*samples, *before) for call in sample.calls if call.executed]
    assert len(calls) == 7 and rows["programs, run again"]["checked"] == len(calls)
    assert rows["grades, given again"]["checked"] == 2 * len(samples)
    assert rows["decontamination, done again"]["note"] == "0 removed, 0 of 1 kept share 5 words"
    evidence = open_evidence(output, tmp_path / "elsewhere")
    compared = evidence.certificate.facts["comparisons"]["sums"][f"{refs[0]}-{refs[1]}"]
    assert compared["difference"]["value"] == pytest.approx(1 / 6)
    assert not list((evidence.directory / STORE).rglob("*.safetensors")), "a certificate has no weights"
    monkeypatch.setenv("TIRFLOW_STORE", store.root)
    assert main(["certify", refs[0], "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_equal_evaluations_have_equal_certificates(
    store: Store, archive: Path, opened: Evidence, tmp_path: Path
) -> None:
    certify(store, opened.certificate.evaluation, "mine", {}, tmp_path / "honest.tar")
    assert (tmp_path / "honest.tar").read_bytes() == archive.read_bytes()


def test_forged_samples_are_found(
    store: Store, inputs: dict[str, ArtifactRef], samples: list[Sample], tmp_path: Path
) -> None:
    """Published again with correct digests and summary: a grade, an output, an id, a text, a call, a void."""
    forged = {sample.key[1:]: sample for sample in samples}
    graded = forged["b", 0]
    forged["b", 0] = replace(graded, correct=True, reason="correct", predicted="81")
    shown = forged["a", 0]
    forged["a", 0] = replace(
        shown,
        calls=[replace(shown.calls[0], observation="43")],
        text=shown.text.replace("\n42\n</interpreter>", "\n43\n</interpreter>"),
    )
    drawn = forged["c", 1]
    forged["c", 1] = replace(drawn, response_ids=[drawn.response_ids[0] + 1, *drawn.response_ids[1:]])
    left_out = forged["a", 1]
    forged["a", 1] = replace(left_out, calls=left_out.calls[1:], shown=list(left_out.shown or ())[1:])
    edited = forged["b", 1]
    forged["b", 1] = replace(edited, text=edited.text.replace("</answer>", "</Answer>"))
    output = tmp_path / "forged"
    certify(store, publish_evaluation(store, inputs, list(forged.values())), "mine", {}, output)
    rows = by_name(check(open_evidence(output, tmp_path), lambda line: None))

    found = {
        what: [(d.where, d.kind) for d in row.differences] for what, row in rows.items() if not row.holds
    }
    assert found.pop("grades, given again") == [("mine: sums/b/0", GRADE)]
    assert found.pop("programs, run again") == [("mine: sums/a/0, call 1", OUTPUT)]
    records = {("mine: sums/a/1", RECORD), ("mine: sums/b/1", RECORD), ("mine: sums/c/1", RECORD)}
    assert set(found.pop("responses: ids, mask, text")) == records
    accuracy = next(
        d for d in rows["scores and intervals"].differences if d.where == "mine: sets.sums.accuracy"
    )
    assert accuracy.detail == "stated 0.66666666666666..., found 0.5" or "found 0.5" in accuracy.detail
    found.pop("scores and intervals")
    assert found == {}, "digests and report were made to fit"


def test_nondeterministic_programs_are_named(
    store: Store, inputs: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    """The clock differs between runs. A date that is constant today is found by its source."""
    scripts = STEADY | {
        "a/0": BLOCK.format("import time\nprint(time.time_ns())") + ANSWER.format(42),
        "a/1": BLOCK.format("import datetime\nprint(datetime.date.today().year)") + ANSWER.format(42),
    }
    samples = take_samples(store, inputs, scripts)
    year = samples[1]
    assert year.problem_id == "a" and year.calls[0].observation.isdigit()
    earlier = replace(year.calls[0], observation="1999")
    samples[1] = replace(year, calls=[earlier], text=year.text.replace(year.calls[0].observation, "1999"))
    certify(store, publish_evaluation(store, inputs, samples), "mine", {}, tmp_path / "unsteady")
    rows = by_name(check(open_evidence(tmp_path / "unsteady", tmp_path), lambda line: None))
    assert rows["programs, run again"].kinds == {RUN_TO_RUN: 1, CLOCK: 1}
    assert [what for what, row in rows.items() if not row.holds] == ["programs, run again"]


def test_a_changed_file_is_found(opened: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    location = opened.certificate.evaluation.location
    table = opened.directory / STORE / location / "samples.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert [d.where for d in check_files(opened).differences] == [f"{STORE}/{location}/samples.parquet"]
    assert [d.where for d in check_artifacts(opened).differences] == [f"{location}/samples.parquet"]
    assert main(["check", str(opened.directory)]) == 1
    assert f"{location}/samples.parquet: changed: not as published" in capsys.readouterr().out


def test_changed_statements_are_found(opened: Evidence, tmp_path: Path) -> None:
    """Only a statement on the first page is changed."""

    def change(document: dict) -> None:
        facts = document["facts"]
        facts["checkpoint"]["digest"] = facts["problems"]["sums"]["digest"] = "0" * 64
        facts["seed"], facts["scores"]["sums"]["accuracy"] = 8, 0.9
        facts["decontamination"][0]["removed"] = 5
        facts["comparisons"]["sums"]["mine-other"] = {"difference": {"value": 0.5}}

    before = certificate_digest(opened)
    rewrite(opened.directory / CERTIFICATE_FILE, change)
    changed = open_evidence(opened.directory, tmp_path)
    assert {difference.where for row in check_facts(changed) for difference in row.differences} == {
        "checkpoint.digest",
        "problems.sums.digest",
        "seed",
        "scores.sums.accuracy",
        "decontamination[0].removed",
        "comparisons.sums.mine-other",
    }
    assert check_files(changed).holds and not check_files(changed, before).holds


def test_a_changed_manifest_is_found(opened: Evidence) -> None:
    location = opened.certificate.evaluation.location
    manifest = opened.directory / STORE / location / "manifest.json"
    rewrite(manifest, lambda document: document["provenance"].update(seed=8))
    (difference,) = check_artifacts(opened).differences
    assert difference.where == location and "seal does not fit" in difference.detail


def test_numbers_and_documents_without_bound_are_differences(
    store: Store, inputs: dict[str, ArtifactRef], samples: list[Sample], tmp_path: Path
) -> None:
    """A protocol may ask for any number of samples, and JSON may be nested deeper than Python can read."""
    ref = publish_evaluation(store, inputs, samples, samples_per_problem=10**12)
    certify(store, ref, "mine", {}, tmp_path / "many")
    evidence = open_evidence(tmp_path / "many", tmp_path)
    rows = by_name(check(evidence, lambda line: None))
    (difference,) = rows["problems and ids of samples"].differences
    assert difference.detail.startswith("6 samples where the protocol asks for 3000000000000")
    (evidence.place(ref) / "summary.json").write_text("[" * 100_000)
    assert not by_name(check(evidence, lambda line: None))["evaluations"].holds


def test_a_table_of_any_size_is_refused(opened: Evidence, tmp_path: Path) -> None:
    """Before it is read: ten million equal rows take a few bytes of a file."""
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(MOST_ROWS + 1, np.int8)), pa.array(["x"]))
    (table,) = opened.directory.rglob("train.parquet")
    pq.write_table(pa.table({"problem": rows}), table)
    assert table.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"train\.parquet: 10,000,001 rows"):
        open_evidence(opened.directory, tmp_path)


def test_a_removed_table_is_found(opened: Evidence) -> None:
    shutil.rmtree(opened.directory / STORE / "problems")
    assert {d.kind for d in check_files(opened).differences} == {"missing or too many"}
    assert not all(row.holds for row in check_facts(opened))


def _member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([_member("../outside", b"x")], "would leave its folder"),
        ([_member("/etc/outside", b"x")], "would leave its folder"),
        ([_member("link", kind=tarfile.SYMTYPE, link="/etc/passwd")], "not a plain file"),
        ([_member("link", kind=tarfile.LNKTYPE, link="certificate.json")], "not a plain file"),
        ([_member("pipe", kind=tarfile.FIFOTYPE)], "not a plain file"),
        ([_member("a", b"1"), _member("./a", b"2")], "occurs twice"),
        ([_member("a", b"1"), _member("a/b", b"2")], "occurs twice"),
        ([_member(f"f{n}") for n in range(10_001)], "more than 10,000 files"),
    ],
)
def test_a_hostile_tar_writes_nothing_outside(members: list, why: str, tmp_path: Path) -> None:
    path = tmp_path / "strange.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=why):
        unpack(path, tmp_path / "into")
    assert not (tmp_path / "into").exists() and not (tmp_path / "outside").exists()


def test_a_packed_or_endless_tar_is_refused(tmp_path: Path) -> None:
    """A compressed tar could grow without bound, and a header may claim any size."""
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.addfile(*[part if n == 0 else io.BytesIO(part) for n, part in enumerate(_member("a", b"1"))])
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        unpack(tmp_path / "packed.tar", tmp_path / "into")
    info = tarfile.TarInfo("huge")
    info.size = 1 << 40
    (tmp_path / "huge.tar").write_bytes(info.tobuf() + b"\0" * 1024)
    with pytest.raises(ValueError, match=r"huge\.tar: "):
        unpack(tmp_path / "huge.tar", tmp_path / "into")
    assert not (tmp_path / "into").exists()
