"""Bad input gets one clear line and exit code 2, before any work, and leaves nothing behind. One table."""

import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chronosae.cli import main

WriteConfig = Callable[..., Path]


@dataclass
class Case:
    """What a user does, and what the line must say."""

    says: str
    sets: list[str] = field(default_factory=list)
    prepare: Callable[[Path, Path], None] | None = None
    """(work folder, model folder copy) -> damage to be done first."""
    args: list[str] = field(default_factory=list)
    saes: dict[str, Any] | None = None


def model(*edits: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    def damage(_work: Path, folder: Path) -> None:
        for edit in edits:
            edit(folder)

    return damage


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def corpus(name: str, content: bytes) -> Callable[[Path, Path], None]:
    return lambda work, _model: (work / name).write_bytes(content) and None


WEIGHTS = "model.safetensors"
HERE = "corpus.path={work}/"
CASES = {
    # the configuration
    "zero steps": Case("nothing would be trained", ["training.tokens=64"]),
    "zero tokens": Case("training.tokens: input should be greater than 0", ["training.tokens=0"]),
    "negative k": Case("saes.topk.k: input should be greater than 0, got -1", ["saes.topk.k=-1"]),
    "k of the wrong type": Case("saes.topk.k: input should be a valid integer", ["saes.topk.k=many"]),
    "k larger than d_sae": Case("k (65) must be at most d_sae (64)", ["saes.topk.k=65"]),
    "target_l0 larger than d_sae": Case("target_l0 (99.0) must be at most d_sae (64)", ["saes.relu_l1.target_l0=99"]),
    "unknown option of a preset": Case("unknown key saes.topk.kk", ["saes.topk.kk=3"]),
    "unknown preset": Case("saes.topk.preset: unknown preset 'top'; legal: relu_l1, topk", ["saes.topk.preset=top"]),
    "a preset that is a list": Case("unknown preset ['topk']", ["saes.topk.preset=[topk]"]),
    "a date that isn't one": Case("not valid YAML", ["name=2024-13-45"]),
    "names that differ only in case": Case(
        "only in case", saes={"topk": {"preset": "topk"}, "TopK": {"preset": "topk"}}
    ),
    "a name without a preset": Case("saes.mine.preset: unknown preset None", saes={"mine": {"k": 3}}),
    "a name that leaves the folder": Case("saes.../evil: a name is", saes={"../evil": {"preset": "topk"}}),
    "a negative rate for one": Case("saes.topk.lr: a positive number", ["saes.topk.lr=-1"]),
    "a site that isn't harvested": Case("isn't among subject.sites", ["saes.topk.site=blocks.0.hook_resid_post"]),
    "several sites and none chosen": Case(
        ".site: is missing (subject.sites has several)",
        ["subject.sites=[blocks.0.hook_resid_post, blocks.1.hook_resid_post]"],
    ),
    "unknown key": Case("unknown key training.stepz", ["training.stepz=3"]),
    "batch not whole contexts": Case("whole number of contexts", ["training.batch_tokens=100"]),
    "a missing config file": Case("nope.yaml: no such config file", args=["nope.yaml"]),
    "a service that isn't installed": Case("pip install 'chronosae[trackio]'", ["logging.extras=[trackio]"]),
    # the subject
    "a layer that doesn't exist": Case("blocks.7.hook_resid_post", ["subject.sites=[blocks.7.hook_resid_post]"]),
    "a site that isn't a site": Case("residual", ["subject.sites=[residual]"]),
    "a site given twice": Case("blocks.1", ["subject.sites=[blocks.1.hook_resid_post, blocks.1.hook_resid_post]"]),
    "context beyond the model's": Case(
        "activations.context: 128 is longer than the 64", ["activations.context=128", "training.batch_tokens=128"]
    ),
    "a model that is nowhere": Case("--set subject.model=PATH", ["subject.model=no/such-model"]),
    "a path that doesn't exist": Case("no_such_folder", ["subject.model=./no_such_folder"]),
    "a folder without a model": Case("config.json", prepare=model(lambda f: (f / "config.json").unlink())),
    "a model without weights": Case("safetensors", prepare=model(lambda f: (f / WEIGHTS).unlink())),
    "truncated safetensors": Case(
        WEIGHTS, prepare=model(lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]) and None)
    ),
    "a pickle disguised as weights": Case(
        WEIGHTS, prepare=model(lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"a": 1})) and None)
    ),
    "only pickled weights": Case(
        "pickle",
        prepare=model(lambda f: shutil.move(f / WEIGHTS, f / "pytorch_model.bin") and None),
    ),
    "config that isn't JSON": Case(
        "config.json", prepare=model(lambda f: (f / "config.json").write_text("{oops") and None)
    ),
    "an unknown architecture": Case(
        "subject.model", prepare=model(edit_json("config.json", model_type="nonesuch", architectures=["Nonesuch"]))
    ),
    "a model that is no causal language model": Case(
        "subject.model", prepare=model(edit_json("config.json", model_type="vit", architectures=["ViTModel"]))
    ),
    "a tokenizer that is missing": Case("tokenizer", prepare=model(lambda f: (f / "tokenizer.json").unlink())),
    "a tokenizer larger than the model": Case(
        "tokenizer", ["subject.tokenizer={work}/big"], prepare=lambda w, m: big(w, m)
    ),
    "a model that wants to run its code": Case(
        "subject.trust_remote_code",
        prepare=model(
            edit_json("config.json", model_type="mine", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
        ),
    ),
    "an unknown device": Case("subject.device", ["subject.device=quantum"]),
    # the text
    "a missing text file": Case("corpus.path: none.txt: no such file or folder", ["corpus.path=./none.txt"]),
    "a data set that is nowhere": Case("--set corpus.path=PATH", ["corpus.path=nobody/nothing"]),
    "an empty corpus": Case("e.txt", [HERE + "e.txt"], prepare=corpus("e.txt", b"")),
    "a corpus of blanks": Case("e.txt", [HERE + "e.txt"], prepare=corpus("e.txt", b" \n\n \n\n")),
    "too little text for one context": Case(
        "context", [HERE + "s.txt"], prepare=corpus("s.txt", b"One.\n\nTwo.\n\nSix.")
    ),
    "one document, so nothing held out": Case(
        "corpus.eval_path", [HERE + "s.txt"], prepare=corpus("s.txt", b"words and more words " * 500)
    ),
    "text that isn't UTF-8": Case("l.txt", [HERE + "l.txt"], prepare=corpus("l.txt", b"caf\xe9 " * 500)),
    "a bad line of JSON": Case(
        "b.jsonl", [HERE + "b.jsonl"], prepare=corpus("b.jsonl", b'{"text": "a"}\n{oops\n' * 50)
    ),
    "JSON without the field": Case("text", [HERE + "b.jsonl"], prepare=corpus("b.jsonl", b'{"body": "a"}\n' * 50)),
    "a field that isn't text": Case("b.jsonl", [HERE + "b.jsonl"], prepare=corpus("b.jsonl", b'{"text": 7}\n' * 50)),
    "a parquet that isn't": Case("p.parquet", [HERE + "p.parquet"], prepare=corpus("p.parquet", b"not parquet")),
    "a folder without text": Case("empty", [HERE + "empty"], prepare=lambda w, m: (w / "empty").mkdir()),
    "an ending nobody reads": Case("x.docx", [HERE + "x.docx"], prepare=corpus("x.docx", b"PK")),
    "an unknown split of the world": Case("split", ["corpus.path=world", "corpus.split=holdout"]),
    # the run folder
    "an out-dir that is a file": Case("is a file", args=["{config}", "--out-dir", "{config}"]),
    "an out-dir below a file": Case("lies below a file", args=["{config}", "--out-dir", "{config}/x"]),
    "an unwritable out-dir": Case("/proc", args=["{config}", "--out-dir", "/proc/x"]),
    "an out-dir with other things in it": Case("holds no run", args=["{config}", "--out-dir", "{work}"]),
    "nothing to resume": Case("holds no run to resume", args=["{config}", "--out-dir", "{work}/new", "--resume"]),
    "resume and overwrite": Case(
        "exclude each other", args=["{config}", "--out-dir", "{work}/new", "--resume", "--overwrite"]
    ),
    "an unknown option": Case("--outdir", args=["{config}", "--outdir", "x"]),
}


def big(work: Path, folder: Path) -> None:
    """A tokenizer with more tokens than the model has embeddings."""
    shutil.copytree(folder, work / "big")
    path = work / "big" / "tokenizer.json"
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    vocab.update({f"<extra{i}>": len(vocab) + i for i in range(5000)})
    path.write_text(json.dumps(data))


def test_there_are_at_least_forty_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_clear_line(
    name: str,
    write_config: WriteConfig,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    sections: dict[str, Any] = {} if case.saes is None else {"saes": case.saes}
    config = write_config(**sections)
    sets = [s.format(work=tmp_path) for s in case.sets]
    if case.prepare:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        case.prepare(tmp_path, folder)
        sets.append(f"subject.model={folder}")
    arguments = [a.format(config=config, work=tmp_path) for a in case.args] or [str(config), "--out-dir", "out"]
    before = sorted(tmp_path.rglob("*"))
    code = main(["run", *arguments, *[f"--set={s}" for s in sets]])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert case.says in lines[0], lines[0]
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before and not path.is_dir()]
    assert left == [], "nothing is left behind"


def test_a_full_disk_is_one_clear_line(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        assert main(["run", str(write_config()), "--out-dir", str(disk / "out")]) == 2
        assert "GB are free" in capsys.readouterr().err
        assert list(disk.iterdir()) == []
        (disk / "filler").write_bytes(b"x" * 64 * 1024)
        assert main(["run", str(write_config()), "--out-dir", str(disk / "out")]) == 2
        assert "the disk is full" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(disk)], check=True)
