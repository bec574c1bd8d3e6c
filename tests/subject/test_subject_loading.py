"""Loading: what is sound loads, everything else is one line that names the key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from subject_families import tiny_model
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaForSequenceClassification

from chronosae.config import SubjectConfig, UserError
from chronosae.subject import Subject, check_sites, inspect_subject

PROMPT = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "models" / "stories260k"


@pytest.fixture(scope="module")
def subject_of_stories(stories: Path) -> Subject:
    return Subject.load(SubjectConfig(model=str(stories), device="cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model folder without a tokenizer, to be damaged."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def config_of(folder: Path, **options: Any) -> SubjectConfig:
    return SubjectConfig(model=str(folder), device="cpu", **options)


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_real_model_loads_and_continues_from_every_site(stories: Path, subject_of_stories: Subject) -> None:
    subject = subject_of_stories
    assert (subject.name, subject.n_layers, subject.max_context, subject.vocab_size) == ("stories260k", 5, 512, 512)
    assert subject.info == inspect_subject(config_of(stories))
    assert subject.info.n_parameters_estimate == 260_032
    tokens = torch.tensor([subject.tokenizer(PROMPT)["input_ids"]])
    logits = subject.logits(tokens)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]).item()
    assert loss < 2.0, "a trained model predicts its own kind of text"
    for kind in ("resid_pre", "resid_mid", "resid_post"):
        acts = subject.activations(tokens, [f"blocks.3.hook_{kind}"])[f"blocks.3.hook_{kind}"]
        torch.testing.assert_close(subject.run_from(f"blocks.3.hook_{kind}", acts), logits, atol=1e-4, rtol=0.0)
    story = subject.tokenizer.decode(subject.generate(tokens, 12)[0], skip_special_tokens=True)
    assert "She loved to play" in story


def test_harvest_takes_less_work_than_a_whole_pass(subject_of_stories: Subject) -> None:
    tokens = torch.randint(3, 512, (4, 64))
    from torch.utils.flop_counter import FlopCounterMode

    def flops(work: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    whole = flops(lambda: subject_of_stories.logits(tokens))
    first = flops(lambda: subject_of_stories.activations(tokens, ["blocks.0.hook_resid_post"]))
    last = flops(lambda: subject_of_stories.activations(tokens, ["blocks.4.hook_resid_post"]))
    assert first == pytest.approx(last / 5, rel=1e-3) and last < whole


def test_precision_and_fingerprint_follow_the_configuration(stories: Path, subject_of_stories: Subject) -> None:
    half = Subject.load(config_of(stories, dtype="bfloat16"))
    assert half.dtype == torch.bfloat16
    again = Subject.load(config_of(stories))
    assert again.fingerprint == subject_of_stories.fingerprint != half.fingerprint


def test_device_map_gives_the_same_values(stories: Path, subject_of_stories: Subject) -> None:
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    mapped = Subject.load(config_of(stories, device_map="auto"))
    tokens = torch.randint(3, 512, (1, 9))
    torch.testing.assert_close(mapped.logits(tokens), subject_of_stories.logits(tokens))


def test_a_model_spread_over_cpu_and_disk_works_at_every_kind_of_site(
    stories: Path, subject_of_stories: Subject, tmp_path: Path
) -> None:
    accelerate = pytest.importorskip("accelerate", reason="device_map needs accelerate")
    plain = subject_of_stories
    model = Subject.load(config_of(stories)).model
    places = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer in (1, 3) else "cpu" for layer in range(5)}
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    spread = Subject(model, plain.tokenizer, "spread", torch.device("cpu"))
    tokens = torch.randint(3, 512, (1, 9))
    sites = [f"blocks.3.hook_{kind}" for kind in plain.info.kinds]
    ours, expected = spread.activations(tokens, sites), plain.activations(tokens, sites)
    for site in sites:
        torch.testing.assert_close(ours[site], expected[site])
        torch.testing.assert_close(spread.run_from(site, ours[site], tokens), plain.logits(tokens), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(spread.logits(tokens), plain.logits(tokens))


def test_a_truncated_weight_file_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        Subject.load(config_of(folder))
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        inspect_subject(config_of(folder))


def test_a_pickle_is_never_read_whatever_its_name(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save({"a": torch.ones(1)}, weights)
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        Subject.load(config_of(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle \(pytorch_model\.bin\).*never read; convert.*save_pretrained"):
        Subject.load(config_of(folder))


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"subject\.tokenizer: .*model holds no tokenizer"):
        Subject.load(config_of(folder))
    edit_json(folder / "config.json")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(UserError, match="holds no weights"):
        Subject.load(config_of(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-2.safetensors"}}')
    with pytest.raises(UserError, match=r"weight file .*part-2\.safetensors is missing"):
        Subject.load(config_of(folder))
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(UserError, match=r"config\.json can't be read as JSON"):
        Subject.load(config_of(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        Subject.load(config_of(folder))
    with pytest.raises(UserError, match="no such folder"):
        Subject.load(config_of(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is a file"):
        Subject.load(config_of(folder / "other.safetensors"))


def test_a_name_that_can_t_be_reached_says_how_to_give_a_path() -> None:
    message = (
        r"subject\.model: 'gpt2' is neither a local folder nor reachable on the Hugging Face Hub \(offline\);"
        r" give a local path with --set subject\.model=PATH"
    )
    for read in (Subject.load, inspect_subject):
        with pytest.raises(UserError, match=message) as caught:
            read(SubjectConfig(model="gpt2", device="cpu"))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_can_t_be_reached_names_its_own_key(folder: Path) -> None:
    with pytest.raises(UserError, match=r"subject\.tokenizer: 'gpt2' is neither .*--set subject\.tokenizer=PATH"):
        Subject.load(config_of(folder, tokenizer="gpt2"))


def test_a_tokenizer_of_another_model_is_refused(folder: Path, shared: Path) -> None:
    tokenizer = shared / "data" / "gpt2_tokenizer"
    with pytest.raises(UserError, match=r"token ids up to 50256, but the model embeds only 96 tokens"):
        Subject.load(config_of(folder, tokenizer=str(tokenizer)))


def test_a_tokenizer_that_is_not_there_names_its_own_key(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^subject\.tokenizer: no such folder: .*--set subject\.tokenizer=PATH"):
        Subject.load(config_of(folder, tokenizer=str(folder / "nowhere")))
    with pytest.raises(
        UserError, match=r"^subject\.tokenizer: .*is a file; give the folder that holds tokenizer\.json"
    ):
        Subject.load(config_of(folder, tokenizer=str(folder / "config.json")))


def test_a_subject_may_be_called_otherwise_than_its_folder(stories: Path) -> None:
    subject = Subject.load(config_of(stories), name="storyteller")
    assert subject.name == "storyteller"


def test_added_tokens_beyond_the_embedding_are_no_reason_to_refuse(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "model", copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    tokenizer.add_tokens(["<image>"])
    (tmp_path / "model").chmod(0o755)
    tokenizer.save_pretrained(tmp_path / "model")
    assert Subject.load(config_of(tmp_path / "model")).tokenizer.convert_tokens_to_ids("<image>") == 512


def test_models_that_are_no_causal_language_models_are_refused(tmp_path: Path) -> None:
    tiny = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(**tiny, intermediate_size=32)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="is a BertForMaskedLM, not a causal language model"):
        Subject.load(config_of(tmp_path / "bert"))
    LlamaForSequenceClassification(tiny_model("llama").config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(UserError, match="is a LlamaForSequenceClassification, not a causal language model"):
        Subject.load(config_of(tmp_path / "classifier"))
    edit_json(tmp_path / "classifier" / "config.json", architectures=["LlamaForCausalLM"])
    with pytest.raises(UserError, match=r"lacks 1 of the weights of a LlamaForCausalLM \(lm_head\.weight\)"):
        Subject.load(config_of(tmp_path / "classifier"))


def test_weights_of_other_sizes_than_the_configuration_s_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=52)
    with pytest.raises(UserError, match=r"subject\.model: .* can't be loaded"):
        Subject.load(config_of(folder))


def test_a_model_s_own_code_runs_only_when_asked_for(folder: Path) -> None:
    proof = folder / "was_run"
    (folder / "code.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(proof)!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "code.OwnConfig", "AutoModelForCausalLM": "code.OwnModel"}
    edit_json(folder / "config.json", model_type="own", auto_map=code, architectures=["OwnModel"])
    for read in (Subject.load, inspect_subject):
        with pytest.raises(UserError, match=r"comes with its own code.*--set subject\.trust_remote_code=true"):
            read(config_of(folder))
    assert not proof.exists()
    assert inspect_subject(config_of(folder, trust_remote_code=True)).architecture == "own"
    assert proof.exists()


def test_devices_that_are_not_there_are_named(stories: Path) -> None:
    with pytest.raises(UserError, match=r"subject\.device: 'gpu' is not a device"):
        Subject.load(SubjectConfig(model=str(stories), device="gpu"))
    for device in ("mps", "meta", "xpu"):
        with pytest.raises(UserError, match=rf"subject\.device: '{device}' isn't supported; use auto, cpu, cuda"):
            Subject.load(SubjectConfig(model=str(stories), device=device))
    with pytest.raises(UserError, match=r"subject\.device: 'cuda:99' isn't there"):
        Subject.load(SubjectConfig(model=str(stories), device="cuda:99"))


def test_sites_can_be_checked_before_any_weight_is_read(stories: Path) -> None:
    info = inspect_subject(config_of(stories))
    assert (info.architecture, info.n_layers, info.d_model, info.max_context) == ("llama", 5, 64, 512)
    with pytest.raises(UserError, match=r"legal: blocks\.0\.\.4\.hook_resid_\{pre,mid,post\}"):
        check_sites(info, ["blocks.5.hook_resid_post"])
