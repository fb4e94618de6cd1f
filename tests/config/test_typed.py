"""What was typed becomes what its key is: in a run's file, in an included one, in overrides and in a cluster's file."""

from pathlib import Path
from typing import Any

import pytest
from support.scalars import AS_TYPED

from cosmos_train.config.cluster import ClusterConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_cluster, load_run, load_sampling, to_yaml
from cosmos_train.config.schema import RunConfig, TokenizerRun

WORLD, TOKENIZER = "run/demo_world", "run/demo_tokenizer"
CLUSTER = "name: test\nranks_per_node: 2\n"


REST = """\
recipe: tokenizer
run_dir: out
data: {manifest: m, num_frames: 9, height_px: 64, width_px: 64}
train: {num_steps: 2, global_batch_size: 4, micro_batch_size: 2}
"""


def every_way(tmp_path: Path, section: str, key: str, text: str) -> list[tuple[str, list[str]]]:
    """(YAML, overrides) of a tokenizer run that has section.key = text: as an override, in its file and included."""
    included, own, by_include = (tmp_path / f"{name}.yaml" for name in ("included", "own", "by_include"))
    values = {section: f"{key}: {text}\n"}
    if key != "lr":
        values["optim"] = f"{values.get('optim', '')}lr: 1.0e-4\n".replace("\nlr", "\n  lr")
    included.write_text(f"{key}: {text}\n", encoding="utf-8")
    own.write_text(REST + "".join(f"{name}:\n  {lines}" for name, lines in values.items()), encoding="utf-8")
    lr = "" if key == "lr" else "optim: {lr: 1.0e-4}\n"
    by_include.write_text(f"include: {{{section}: {included}}}\n{REST}{lr}", encoding="utf-8")
    return [(TOKENIZER, [f"{section}.{key}={text}"]), (str(own), []), (str(by_include), [])]


def outcomes(tmp_path: Path, section: str, key: str, text: str) -> list[Any]:
    """The key's value, or what is said of it, in each of the ways."""
    found = []
    for name, overrides in every_way(tmp_path, section, key, text):
        try:
            found.append(getattr(getattr(load_run(name, overrides), section), key))
        except ConfigError as error:
            found.append(str(error).partition(": ")[2])
    return found


@pytest.mark.parametrize("text", [text for text in AS_TYPED if not text.startswith(("~", "="))])
def test_texts_are_what_was_typed(tmp_path: Path, text: str):
    assert set(outcomes(tmp_path, "tracking", "project", text)) == {text}
    assert set(outcomes(tmp_path, "checkpoint", "init_from", text)) == {text}
    found = load_run(WORLD, [f"run_dir={text}", f"checkpoint.init_new=[{text}]"])
    assert (found.run_dir, found.checkpoint.init_new) == (text, (text,))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(found), encoding="utf-8")
    assert load_run(str(resolved)) == found


@pytest.mark.parametrize(
    "text", ["020222", "0777", "1e3", "on", "03", "12:30:00", "2026-11-29", "12_34", "0x10", "1_000"]
)
def test_a_cluster_file_and_its_overrides(tmp_path: Path, text: str):
    file = tmp_path / "cluster.yaml"
    texts = {"account": text, "partition": text, "qos": text}
    file.write_text(
        CLUSTER + "".join(f"{key}: {text}\n" for key in texts) + f"environment: {{A: {text}}}\nsetup: [{text}]\n"
    )
    of_file = load_cluster(str(file))
    file.write_text(CLUSTER)
    line = [f"cluster.{key}={text}" for key in texts]
    of_line = load_cluster(str(file), [*line, f"cluster.environment={{A: {text}}}", f"cluster.setup=[{text}]"])
    for cluster in (
        of_file,
        of_line,
        load_cluster(str(file), [*line, f"cluster.environment.A={text}", f"cluster.setup=[{text}]"]),
    ):
        assert isinstance(cluster, ClusterConfig)
        assert {key: getattr(cluster, key) for key in texts} == texts
        assert (cluster.environment, cluster.setup) == ({"A": text}, (text,))


def test_a_time_limit_without_days_needs_no_quotes(tmp_path: Path):
    file = tmp_path / "cluster.yaml"
    file.write_text(f"{CLUSTER}time_limit: 12:30:00\n")
    assert load_cluster(str(file)).time_limit == "12:30:00" and load_cluster(str(file)).time_limit_sec == 45000


NUMBERS = {
    "1e-4": 0.0001,
    "1.0e-4": 0.0001,
    "'1e-4'": 0.0001,
    "2E-5": 2e-5,
    ".5": 0.5,
    "1.": 1.0,
    "3": 3.0,
    "+0.1": 0.1,
}
NO_NUMBERS = {
    "010": "is not a number, but octal in YAML 1.1; write 10, or 8 if that is meant",
    "09": "is not a number; write 9",
    "07": "is not a number; write 7",
    "0o10": "is not a number, but one of another base; write 8",
    "0x1F": "is not a number, but one of another base; write 31",
    "1_000": "is not a number; write 1000",
    "1_0.5": "is not a number; write 10.5",
    "1:30": "is not a number, but of base 60 in YAML 1.1; write it as one number",
    "190:20:30.15": "is not a number, but of base 60 in YAML 1.1; write it as one number",
    "on": "is not a number",
    "true": "is not a number",
    "1/2": "is not a number",
    "0,5": "is not a number",
    "1e": "is not a number",
    "١": "is not a number",
    "2026-11-29": "is not a number",
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers(tmp_path: Path, text: str, value: float):
    assert outcomes(tmp_path, "optim", "lr", text) == [value] * 3


@pytest.mark.parametrize(("text", "said"), NO_NUMBERS.items())
def test_no_numbers(tmp_path: Path, text: str, said: str):
    found = outcomes(tmp_path, "optim", "weight_decay", text)
    # `0,5` is two entries of a mapping in a file.
    assert found[0] == f"optim.weight_decay={text} {said}"
    assert text == "0,5" or set(found) == {found[0]}


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "010": ", but octal in YAML 1.1; write 10, or 8 if that is meant",
        "-010": ", but octal in YAML 1.1; write -10, or -8 if that is meant",
        "0o10": ", but one of another base; write 8",
        "1_000": "; write 1000",
        "1e3": "; write 1000",
        "5.0": "; write 5",
        "'5.0'": "; write 5",
        "1.5": "",
        "1:30": ", but of base 60 in YAML 1.1; write it as one number",
        "yes": "",
    }.items(),
)
def test_no_whole_numbers(tmp_path: Path, text: str, said: str):
    bare = text.strip("'")
    assert set(outcomes(tmp_path, "checkpoint", "every_steps", text)) == {
        f"checkpoint.every_steps={bare} is not a whole number{said}"
    }


@pytest.mark.parametrize("text", ["7", "+7", "'7'", '"7"'])
def test_whole_numbers(tmp_path: Path, text: str):
    assert outcomes(tmp_path, "checkpoint", "every_steps", text) == [7] * 3


@pytest.mark.parametrize("word", ["true", "True", "yes", "ON", "'true'", "false", "no", "Off"])
def test_truths(tmp_path: Path, word: str):
    expected = word.strip("'").lower() in ("true", "yes", "on")
    assert outcomes(tmp_path, "checkpoint", "verify", word) == [expected] * 3


@pytest.mark.parametrize("word", ["1", "0", "y", "n", "t", "enabled", "~"])
def test_no_truths(tmp_path: Path, word: str):
    shown = "null" if word == "~" else word
    assert set(outcomes(tmp_path, "checkpoint", "verify", word)) == {f"checkpoint.verify={shown} is not true or false"}


@pytest.mark.parametrize(
    ("override", "said"),
    {
        "run_dir=~": "run_dir=null is not text; leave the key out, or put it in quotes",
        "run_dir=": "run_dir=null is not text; leave the key out, or put it in quotes",
        "run_dir=a: b": "run_dir={a: b} is not text; put it in quotes",
        "run_dir=[a]": "run_dir=[a] is not text; put it in quotes",
        "optim.betas=[0.9, 09]": "optim.betas[1]=09 is not a number; write 9",
        "optim.betas=0.9": "optim.betas=0.9 is not a list of 2 numbers",
        "optim.lr_factors={a: on}": "optim.lr_factors.a=on is not a number",
        "optim.lr_factors=[a]": "optim.lr_factors=[a] is not a mapping of names to numbers",
        "data.buckets=0256": "data.buckets=0256 is not one of one, 256, 512, 720",
    }.items(),
)
def test_what_does_not_fit_is_named_with_the_remedy(override: str, said: str):
    with pytest.raises(ConfigError) as caught:
        load_run(TOKENIZER, [override])
    assert str(caught.value).partition(": ")[2] == said


def test_null_in_a_mapping_of_texts_is_named(tmp_path: Path):
    file = tmp_path / "cluster.yaml"
    file.write_text(f"{CLUSTER}environment: {{A: off, B: 010, C: ~}}\n")
    with pytest.raises(
        ConfigError, match=r"cluster\.environment\.C=null is not text; leave the key out, or put it in qu"
    ):
        load_cluster(str(file))


def test_values_that_others_refer_to_are_typed_where_they_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COSMOS_TEST_STEPS", "0007")
    found = load_run(TOKENIZER, ["run_dir=${oc.env:COSMOS_TEST_STEPS}", "train.num_steps=${checkpoint.every_steps}"])
    assert isinstance(found, TokenizerRun)
    assert (found.run_dir, found.train.num_steps) == ("0007", found.checkpoint.every_steps)
    with pytest.raises(ConfigError, match=r"train\.num_steps=0007 is not a whole number; write 7"):
        load_run(TOKENIZER, ["train.num_steps=${oc.env:COSMOS_TEST_STEPS}"])
    decoded = load_run(TOKENIZER, ['train.num_steps=${oc.decode:"12"}', 'run_dir=${oc.decode:"12"}'])
    assert (decoded.train.num_steps, decoded.run_dir) == (12, "12")


def test_texts_that_look_like_references_or_numbers_come_back_from_the_resolved_yaml(tmp_path: Path):
    for text in (r"a\${b}", r"\${seed}/x", "a$b{c}", "'~'", "'null'", "'[1]'", "' x '", "'#3'", "'a: b'", r"'a\${b'"):
        found = load_run(TOKENIZER, [f"tracking.project={text}"])
        assert found.tracking.project == text.strip("'").replace("\\", "")
        resolved = tmp_path / "resolved.yaml"
        resolved.write_text(to_yaml(found), encoding="utf-8")
        assert load_run(str(resolved)) == found


def test_what_is_given_of_a_section_leaves_the_rest_as_it_is():
    found = load_run(
        TOKENIZER, ["loss.l1.start_step=0", "loss.gram.weight=0.5", "parallel.precision.bf16_last_blocks=3"]
    )
    assert isinstance(found, TokenizerRun)
    assert (found.loss.l1.weight, found.loss.gram.weight, found.loss.gram.start_step) == (1.0, 0.5, 0)
    precision = found.parallel.precision
    assert (precision.bf16_last_blocks, precision.bf16_first_blocks, found.parallel.tp) == (3, 1, 1)


def test_bytes_that_are_no_text_are_named():
    with pytest.raises(ConfigError) as caught:
        load_run(TOKENIZER, [b"run_dir=out/\xff".decode("utf-8", "surrogateescape")])
    assert str(caught.value) == r"override run_dir=out/\xff has bytes that are no UTF-8 text; rename what it names"


def test_a_file_of_sampling_alone(tmp_path: Path):
    assert load_sampling("released_2ab").sampler == "2ab"
    file = tmp_path / "mine.yaml"
    file.write_text("{guidance: 1e0, negative_prompt: on}")
    assert (load_sampling(str(file)).guidance, load_sampling(str(file)).negative_prompt) == (1.0, "on")
    file.write_text("guidance: 07")
    with pytest.raises(ConfigError, match="guidance=07 is not a number; write 7"):
        load_sampling(str(file))


def test_sections_with_defaults_alone_may_be_left_out(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "{recipe: tokenizer, run_dir: 0777, optim: {lr: 1e-4}, data: {manifest: m, num_frames: 9, height_px: 64, "
        "width_px: 64}, train: {num_steps: 1, global_batch_size: 1, micro_batch_size: 1}}"
    )
    found: RunConfig = load_run(str(file))
    assert (found.run_dir, found.optim.lr) == ("0777", 0.0001)
