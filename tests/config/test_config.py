"""A configuration either loads or says in one line which key is wrong and what is legal."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronosae.config import RunConfig, UserError, config_sha256, load_config, to_yaml
from chronosae.config.reference import as_markdown, entries

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SAES = "saes:\n  topk: {preset: topk, k: 3}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_into_saes_whatever_their_names(tmp_path: Path) -> None:
    cfg = load_config(written(tmp_path, SAES), ["saes.topk.k=8", "saes.mine.preset=relu_l1", "training.lr=3e-4"])
    assert cfg.saes == {"topk": {"preset": "topk", "k": 8}, "mine": {"preset": "relu_l1"}}
    assert cfg.training.lr == 3e-4


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+2.5e4", "1_000e-6"])
def test_exponents_without_a_dot_are_numbers(tmp_path: Path, text: str) -> None:
    assert load_config(written(tmp_path, SAES), [f"training.lr={text}"]).training.lr == float(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.lr=1", "unknown key trainig; did you mean training?"),
        ("training.learning_rate=1", "unknown key training.learning_rate; legal here: "),
        ("training.lr=-1", "training.lr: input should be greater than 0, got -1"),
        (
            "training.lr=fast",
            'training.lr: input should be a valid number, unable to parse string as a number, got "fast"',
        ),
        ("training.tokens=0", "training.tokens: input should be greater than 0"),
        ("training.tokens=100", "nothing would be trained"),
        ("training.batch_tokens=100", "must be a whole number of contexts"),
        ("training.clip=hard", "input should be 'norm', 'parameter' or 'none'"),
        ("training.seeds=[1, 1]", "seeds holds the same seed twice"),
        ("training.lr=.inf", "training.lr: input should be a finite number"),
        ("subject.sites=[]", "subject.sites"),
        ("activations.context=1", "activations.context: input should be greater than or equal to 2"),
        ("activations.store=memory", "input should be 'stream' or 'cache'"),
        ("corpus.sources=[{pat: x}]", "corpus.sources.0.path is missing"),
        ("corpus.sources=[{path: x, weight: 0}]", "corpus.sources.0.weight"),
        ("corpus={path: a, sources: [{path: b}]}", "not both"),
        ("evals.core.tokes=3", "unknown key evals.core.tokes; did you mean tokens?"),
        ("logging.extras=[mlflow]", "logging.extras.0: input should be 'wandb', 'tensorboard' or 'trackio'"),
        ("saes={}", "saes"),
        ("saes.topk.k.z=3", "saes.topk.k is a value and holds no keys"),
        ("training.lr", "expected key=value"),
        ("=3", "expected key=value"),
        ("training.lr=[1", "not valid YAML"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(written(tmp_path, SAES), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected `key: value` lines, got list"),
        ("", "expected `key: value` lines, got NoneType"),
        ("a: [1\n", "line 2: not valid YAML"),
        ("saes:\n  topk: {k: 1}\n  topk: {k: 2}\n", "line 3: not valid YAML (key 'topk' is given twice)"),
        ("x: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(written(tmp_path, text))
    assert message in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes(b"name: caf\xe9\n")
    for path, message in [("none.yaml", "no such config file"), (".", "is a folder"), ("latin1.yaml", "not UTF-8")]:
        with pytest.raises(UserError, match=message):
            load_config(tmp_path / path)


@given(
    lr=st.floats(1e-8, 10),
    name=st.text(max_size=20).filter(lambda s: s.isprintable()),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
)
def test_the_resolved_configuration_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, lr: float, name: str, seeds: list[int]
) -> None:
    cfg = RunConfig.model_validate(
        {"name": name, "training": {"lr": lr, "seeds": seeds}, "saes": {"a": {"preset": "topk"}}}
    )
    path = tmp_path_factory.mktemp("cfg") / "run.yaml"
    path.write_text(to_yaml(cfg), encoding="utf-8")
    again = load_config(path)
    assert again == cfg and config_sha256(again) == config_sha256(cfg)


@pytest.mark.parametrize("text", ["1e3", "12345e7", "2024-01-01", "null", "yes", "0x1f", "1_000"])
def test_text_that_looks_like_a_number_stays_text(tmp_path: Path, text: str) -> None:
    cfg = RunConfig.model_validate({"name": text, "saes": {"a": {"preset": "topk"}}})
    assert load_config(written(tmp_path, to_yaml(cfg))) == cfg


def test_any_change_of_the_configuration_changes_its_hash() -> None:
    base = RunConfig.model_validate({"saes": {"a": {"preset": "topk"}}})
    other = RunConfig.model_validate({"saes": {"a": {"preset": "topk", "k": 5}}})
    assert config_sha256(base) != config_sha256(other)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_recipe_is_a_valid_configuration(path: Path) -> None:
    assert load_config(path).steps > 0


def test_every_key_is_documented() -> None:
    assert [e.key for e in entries() if not e.doc] == []


def test_the_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8").strip() == as_markdown().strip(), "run `make docs`"


def test_configuration_needs_no_torch() -> None:
    code = "import sys, chronosae, chronosae.config, chronosae.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
