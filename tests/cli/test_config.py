"""What a configuration may say, and how a wrong one is answered."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import gradcode
from gradcode import network
from gradcode.cli import build
from gradcode.cli.config import Config, Given, changed, load
from gradcode.cli.run import run
from gradcode.errors import ConfigError, GradcodeError
from gradcode.schemes import registry
from gradcode.topology import shape_of

CODED = 'scheme={name="%s"%s}'
RAY = 'cluster={kind="ray", workers=4%s}'
UPLINK = "cluster.uplink={name='%s', tradeoff=0, radio={name='%s', bytes_per_second=1e4, slot=0.5%s}}"

# --set arguments, the key that the message must name, and what else it must say.
WRONG = [
    (["scheme.nam=x"], 'scheme.nam = "x"', "unknown key"),
    (["scheme.name=codde"], 'scheme.name = "codde"', 'did you mean "coded"'),
    (["scheme.deadline=-1"], "scheme.deadline = -1", "positive number of seconds"),
    (["scheme.deadline=soon"], 'scheme.deadline = "soon"', "must be a number"),
    (["scheme.workers=4"], "scheme.workers = 4", "cluster.workers"),
    (['scheme={name="fastest", k=2.5}'], "scheme.k = 2.5", "integer"),
    (['scheme={name="fastest", k=9}'], "scheme.k = 9", "from 1 to workers=4"),
    (['scheme={name="fastest"}'], "scheme.k", "missing"),
    (['scheme={name="coded"}'], "scheme.code", "fractional_repetition"),
    (['scheme={name="coupon", loads=3}'], "scheme.partitions", "missing"),
    (['scheme={name="coupon", partitions=8, loads=9}'], "scheme.loads = 9", "between 0 and 8"),
    (['scheme={name="coupon", partitions=8, loads=[4, 4]}'], "scheme.loads = [4, 4]", "one for each of workers=4"),
    (['scheme={name="coupon", partitions=8, loads=1}'], "scheme.loads = 1", "at least partitions=8"),
    (["cluster.delays={compute=0.1, receive=-1}"], "cluster.delays.receive=-1", ">= 0"),
    (['scheme={name="clustered", clusters=3, stragglers=1}'], "scheme.clusters = 3", "divide workers=4"),
    (
        ['scheme={name="clustered", clusters=2, stragglers=1, rule="fast"}'],
        "scheme.rule",
        "'flag', 'rank' or 'flag+rank'",
    ),
    (['scheme={name="two_stage", stragglers=1, pool="late"}'], "scheme.pool", "'fresh' or 'all'"),
    (['scheme={name="two_stage", stragglers=1, rule="search"}'], "scheme", "needs shift=None"),
    (['scheme={name="two_stage", stragglers=1, rule="fixed"}'], "scheme", "positive number of seconds"),
    (["scheme.name=uncoded"], "scheme.code = ", "not used by scheme"),
    (["scheme.code.name=fractional_repitition"], "scheme.code.name", 'did you mean "fractional_repetition"'),
    (["scheme.code.stragglers=4"], "scheme.code.stragglers = 4", "between 0 and 3"),
    (["scheme.code.straglers=1"], "scheme.code.straglers = 1", 'did you mean "stragglers"'),
    (["scheme.code.workers=4"], "scheme.code.workers = 4", "cluster.workers"),
    (["scheme.compression.name=half_"], "scheme.compression.name", 'did you mean "half"'),
    (['scheme.compression={name="half", bits=8}'], "scheme.compression.bits = 8", "dtype"),
    (
        ['scheme.compression={name="half", rate=0.5}'],
        "scheme.compression.rate = 0.5",
        'goes with memory = "differences"',
    ),
    (['scheme.compression={name="half", memory="differences"}'], "scheme.compression.rate", "needs it"),
    (['scheme.compression={name="half", memory="error"}'], "scheme.compression.memory", "none, feedback, differences"),
    (['scheme.compression={name="half", memory="feedback"}'], "scheme.compression", "always count alike"),
    (["batch_size=2"], "batch_size = 2", "cannot be split"),
    (["batch_size=many"], 'batch_size = "many"', "integer"),
    (["epochs=0"], "epochs = 0", "at least 1"),
    (["seed=-1"], "seed = -1", "at least 0"),
    (["epoch=3"], "epoch = 3", 'did you mean "epochs"'),
    (["optimizer.name=SDG"], 'optimizer.name = "SDG"', 'did you mean "SGD"'),
    (["optimizer.lr=-1"], "optimizer.lr = -1", "learning rate"),
    (["optimizer.lr=fast"], 'lr = "fast"', "optimizer"),
    (["optimizer.momentumm=1"], "optimizer.momentumm = 1", 'did you mean "momentum"'),
    (["scheduler.name=Step"], 'scheduler.name = "Step"', 'did you mean "StepLR"'),
    (["scheduler.step_size=often"], 'scheduler.step_size = "often"', "integer"),
    (['scheduler={name="StepLR"}'], "scheduler.step_size", "missing"),
    (["scheduler.name=ReduceLROnPlateau"], "scheduler", "step_size"),
    (["scheduler.every=year"], 'scheduler.every = "year"', "epoch, iteration"),
    (["loss.name=NLLos"], 'loss.name = "NLLos"', 'did you mean "NLLLoss"'),
    (['loss={name="CrossEntropyLoss", reduction="sum"}'], "[loss]", "not a mean"),
    (["model.name=mlq"], 'model.name = "mlq"', 'did you mean "mlp"'),
    (["model.arguments.dropout=2.0"], "model.arguments.dropout = 2.0", "probability"),
    (["model.arguments.hidden=8"], "model.arguments.hidden = 8", "list"),
    (['model={name="cnn"}'], "[model.arguments]", "images"),
    (["model.target=here:there"], 'target = "here:there"', "either name"),
    (['model={target="no_such_module:make"}'], 'model.target = "no_such_module:make"', "cannot be imported"),
    (['model={target="math:sqroot"}'], 'model.target = "math:sqroot"', 'did you mean "sqrt"'),
    (['model={target="math"}'], 'model.target = "math"', "package.module:callable"),
    (['data={target="os:getcwd"}'], 'data.target = "os:getcwd"', "(train, test)"),
    (['data={name="mnist"}'], "data.path", "missing"),
    (['data={name="mnist", path="nowhere"}'], "nowhere", "train-images-idx3-ubyte"),
    (["data.classes=0"], "data.classes = 0", "at least 1"),
    (["cluster.kind=remote"], 'cluster.kind = "remote"', "local, ray, simulated"),
    (["cluster.workers=0"], "cluster.workers = 0", "at least 1"),
    (["cluster.threads=2"], "cluster.threads = 2", 'goes with kind = "local" or kind = "ray" only'),
    (["cluster.address=auto"], 'cluster.address = "auto"', 'goes with kind = "ray" only'),
    ([RAY % ", restart=1"], "cluster.restart = 1", 'goes with kind = "simulated" only'),
    ([RAY % ", adress='auto'"], 'cluster.adress = "auto"', 'did you mean "address"'),
    ([RAY % ", address=''"], 'cluster.address = ""', "at least 1 character"),
    ([RAY % ", resources=2"], "cluster.resources = 2", "must be a table [cluster.resources]"),
    ([RAY % ", resources={num_cpus='two'}"], 'cluster.resources.num_cpus = "two"', "must be a number"),
    ([RAY % ", resources={num_gpus=-1}"], "cluster.resources.num_gpus = -1", "at least 0"),
    ([RAY % ", placement='far'"], 'cluster.placement = "far"', "spread, pack"),
    ([RAY % ", runtime_env='.'"], 'cluster.runtime_env = "."', "must be a table [cluster.runtime_env]"),
    ([RAY % ", max_restarts=-1"], "cluster.max_restarts = -1", "at least 0"),
    ([RAY % ", max_restarts='often'"], 'cluster.max_restarts = "often"', "integer"),
    ([RAY % ", start_timeout=0"], "cluster.start_timeout = 0", "greater than 0"),
    (["cluster.losses=[[1, 2]]"], "cluster.losses", "at least 3 items"),
    (["cluster.delays.law=paretto"], "cluster.delays.law='paretto'", 'did you mean "pareto"'),
    (["cluster.delays.shape=-2.0"], "cluster.delays.shape=-2.0", "> 0"),
    (["cluster.delays.shap=2.0"], "cluster.delays.shap=2.0", 'did you mean "shape"'),
    (["cluster.delays=slow"], "cluster.delays='slow'", "number of seconds"),
    (['cluster.delays={law="trace", path="nowhere.csv"}'], "cluster.delays", "nowhere.csv"),
    ([UPLINK % ("fare", "wire", "")], "cluster.uplink.name", 'did you mean "fair"'),
    ([UPLINK % ("fair", "wires", "")], "cluster.uplink.radio.name", 'did you mean "wire"'),
    ([UPLINK % ("fair", "wire", ", speed=3")], "cluster.uplink.radio.speed", "unknown key"),
    ([UPLINK % ("fair", "harvesting", "")], "cluster.uplink.radio.bytes_per_second", "unknown key"),
    ([UPLINK % ("fair", "wire", "")], "cluster.uplink.tradeoff", "positive"),
    (["cluster.uplink={name='fair'}"], "cluster.uplink.radio", "missing"),
    (["session.sampling=all"], 'session.sampling = "all"', "placed, global"),
    (["session.devices=['gpu']"], 'session.devices = ["gpu"]', "cuda:0"),
    (["session.reply_dtype=int8"], 'session.reply_dtype = "int8"', "bfloat16"),
    (["checkpoint.every=0"], "checkpoint.every = 0", "at least 1"),
    (["scheme=3"], "scheme = 3", "table"),
    (["seed.x=1"], "seed = 3", "no table"),
    (["lr"], "lr", "KEY=VALUE"),
]


@pytest.mark.parametrize(("overrides", "key", "allowed"), WRONG, ids=[wrong[0][0] for wrong in WRONG])
def test_wrong_input_is_one_clear_message(config: Path, overrides: list[str], key: str, allowed: str) -> None:
    with pytest.raises(GradcodeError) as caught:
        run(load(config, overrides), config.parent / "run")
    message = str(caught.value)
    assert key in message and allowed in message
    assert "Traceback" not in message
    assert not (config.parent / "run").exists(), "nothing is left of a training that never began"
    if not overrides[0].startswith(("seed.x", "lr", 'data={name="mnist", path')):
        assert str(config) in message


def test_every_wrong_key_is_said_at_once(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)epochs.*bach_size"):
        load(config, ["epochs=0", "bach_size=3"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1\nepochs 2", "is not TOML.*line 2"),
        (b"\xff\xfe", "is not TOML"),
        (None, "cannot read the configuration"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    path = tmp_path / "train.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said):
        load(path)


@pytest.mark.parametrize(
    ("override", "value"),
    [("optimizer.lr=0.5", 0.5), ("optimizer.nesterov=true", True), ("optimizer.name=Adam", "Adam")],
)
def test_set_overrides_a_dotted_key(config: Path, override: str, value: object) -> None:
    given = load(config, [override])
    assert given.raw["optimizer"][override.partition("=")[0].split(".")[1]] == value
    assert given.config.optimizer.name == ("Adam" if value == "Adam" else "SGD")


@pytest.mark.parametrize(
    ("kind", "cluster"), [("local", "LocalCluster"), ("ray", "RayCluster"), ("simulated", "SimulatedCluster")]
)
def test_a_kind_has_its_clusters_arguments_and_defaults(config: Path, kind: str, cluster: str) -> None:
    options = load(config, [f'cluster={{kind="{kind}", workers=4}}']).config.cluster.options
    parameters = inspect.signature(getattr(gradcode, cluster)).parameters
    own = {name: parameter.default for name, parameter in parameters.items()}
    said_elsewhere = {"workers", "delays", "seed", "uplink"}
    assert options.keys() == own.keys() - said_elsewhere
    assert all(own[name] == (tuple(value) if name == "losses" else value) for name, value in options.items())


def test_a_ray_cluster_in_a_configuration(config: Path) -> None:
    said = (
        'address="auto", resources={num_gpus=1, tpu=0.5}, runtime_env={env_vars={A="b"}}, max_restarts=inf, patience=9'
    )
    table = load(config, [RAY % f", {said}"]).config.cluster
    options = table.options
    assert options["address"] == "auto" and options["resources"] == {"num_gpus": 1, "tpu": 0.5}
    assert options["runtime_env"] == {"env_vars": {"A": "b"}} and options["patience"] == 9
    assert options["max_restarts"] is None, "inf is without end"


def test_an_uplink_in_a_configuration(config: Path) -> None:
    """A wire in units of 100 bytes: 2 channels that carry 1e4 bytes a second together, in slots of 0.5 s."""
    radio = "{name='wire', bytes_per_second=1e4, slot=0.5, channels=2}"
    table = f"{{name='fair', tradeoff=7.0, sharing=true, unit=100, radio={radio}}}"
    given = load(config, [f"cluster.uplink={table}"])
    plan = build.plan(given)
    assert plan.uplink is not None and plan.uplink.unit == 100
    controller = plan.uplink.controller
    assert isinstance(controller, network.FairUplink) and controller.tradeoff == 7.0 and controller.sharing
    assert controller.radio.workers == 4 and controller.radio.rate_max == pytest.approx(25.0) and not controller.energy
    assert build.cluster(given, plan.table, plan.uplink).uplink is plan.uplink
    other = load(config, ["cluster.uplink={name='max_weight', battery=0.01, radio={name='harvesting'}}"])
    assert repr(build.plan(other).uplink.controller) == "MaxWeight(workers=4)"
    run(given, config.parent / "run")
    times = [json.loads(line)["time"] for line in (config.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(times) == 8 and min(times) >= 1.0  # a reply is admitted in one slot of 0.5 s and served in a later one


def test_set_makes_tables(config: Path) -> None:
    assert load(config, ["checkpoint.every=7"]).config.checkpoint.every == 7


def test_workers_are_said_once(config: Path) -> None:
    plan = build.plan(load(config, ["cluster.workers=6"]))
    assert plan.scheme.workers == 6 and plan.table is not None and plan.table.workers == 6


def test_partitions_reach_the_code(config: Path) -> None:
    assert build.plan(load(config, ["scheme.partitions=8"])).scheme.partitions == 8
    assert build.plan(load(config, ["scheme.code.partitions=8"])).scheme.partitions == 8
    assert build.plan(load(config, ['scheme={name="uncoded", partitions=12}'])).scheme.partitions == 12


@pytest.mark.parametrize(("loads", "shown"), [("4", "4"), ("[2, 3, 5, 8]", "2..8")])
def test_coupon_in_a_configuration(config: Path, loads: str, shown: str) -> None:
    given = load(config, [f'scheme={{name="coupon", partitions=8, loads={loads}}}'])
    assert repr(build.plan(given).scheme) == f"coupon(workers=4, partitions=8, loads={shown})"


def test_short_messages_in_a_configuration(config: Path) -> None:
    """Four workers: a load of 3, without one straggler, messages of half the length."""
    code = 'scheme.code={name="communication_efficient", load=3, stragglers=1, reduction=2}'
    scheme = build.plan(load(config, [code])).scheme
    assert scheme.layout.fold == 2 and scheme.partitions == 4
    with pytest.raises(ConfigError, match=r"scheme\.code\.load = 2 must be at least stragglers \+ reduction = 1 \+ 2"):
        build.plan(load(config, [code.replace("load=3", "load=2")]))


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (
            'name="clustered", clusters=2, stragglers=1, candidates=2, rule="rank"',
            "clustered(clustered(workers=4, clusters=2, stragglers=1, rng=3), candidates=2, rule='rank')",
        ),
        (
            'name="two_stage", stragglers=1, partitions=8, rule="fixed", wait=1.5, pool="all"',
            "two_stage(workers=4, partitions=8, stragglers=1, active=3, rule='fixed', wait=1.5, pool='all', "
            "mode='any_s')",
        ),
        ('name="heterogeneous", stragglers=2', "heterogeneous(workers=4, stragglers=2, partitions=16)"),
        ('name="draco", adversaries=1, kind="cyclic"', "draco(workers=4, adversaries=1, kind='cyclic')"),
        (
            'name="sequential", burst=1, window=2, stragglers=2',
            "sequential(workers=4, burst=1, window=2, stragglers=2)",
        ),
        (
            'name="sequential", burst=1, window=2, stragglers=1, kind="multiplexed"',
            "sequential(workers=4, burst=1, window=2, stragglers=1, kind='multiplexed')",
        ),
    ],
)
def test_other_schemes_in_a_configuration(config: Path, table: str, shown: str) -> None:
    assert repr(build.plan(load(config, [f"scheme={{{table}}}"])).scheme) == shown


def test_a_scheme_registered_later_works_by_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @registry.scheme("first_of", summary="waits for the first few", trade_off="for tests")
    def first_of(workers: int, few: int, partitions: int | None = None) -> object:
        return registry.by_name("fastest").construct(workers, few, partitions)

    plan = build.plan(load(config, ['scheme={name="first_of", few=3}']))
    assert repr(plan.scheme) == "fastest(workers=4, k=3)"
    with pytest.raises(ConfigError, match=r"scheme\.fewer = 3: unknown key; known are few, partitions"):
        build.plan(load(config, ['scheme={name="first_of", fewer=3}']))


def test_messages_are_compressed_by_configuration(config: Path) -> None:
    for compression, expected in (
        ('{name="half", dtype="float16"}', "Plain(compressor=Half(dtype='float16'))"),
        ('{name="one_bit", memory="differences", rate=0.1}', "rate=0.1"),
        ('{name="grouped_sign", group=32, memory="feedback"}', "ErrorFeedback(compressor=GroupedSign(group=32)"),
    ):
        given = load(config, ['scheme={name="uncoded"}', f"scheme.compression={compression}"])
        assert expected in repr(build.plan(given).scheme)


def test_changed_names_dotted_keys(config: Path) -> None:
    before, now = load(config).resolved(), load(config, ["optimizer.lr=0.5"]).resolved()
    assert changed(before, now) == [("optimizer.lr", "0.1", "0.5")]
    assert changed(before, before) == []


def test_codes_lists_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    from gradcode.cli.codes import codes
    from gradcode.codes import REGISTRY
    from gradcode.schemes import available

    codes()
    printed = capsys.readouterr().out
    for name in [*REGISTRY, *(entry.name for entry in available())]:
        assert re.search(rf"│ {name} +│", printed), name


@pytest.mark.parametrize("name", ["digits.toml", "hierarchical.toml", "ray_digits.toml"])
def test_the_examples_are_valid_configurations(name: str) -> None:
    given = load(Path(__file__).parents[2] / "examples" / name)
    assert isinstance(given, Given) and isinstance(given.config, Config)
    assert shape_of(build.plan(given).scheme) == given.config.cluster.tree.shape
