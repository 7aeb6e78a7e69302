"""From a configuration to what it speaks of. The cheap parts come first, so that a misspelt scheme is said at once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradcode import codes, compression, delays, network, schemes
from gradcode.cli.arguments import blamed, call, target
from gradcode.cli.config import Choice, CompressionTable, Given, ModelTable, Part
from gradcode.cli.messages import allowed, with_nearest
from gradcode.delays import DelayTable
from gradcode.errors import ConfigError
from gradcode.protocol import Cluster, Scheme

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    from gradcode.session import Session


# Schemes whose code is not one of the registry, and is given in the scheme's own table.
_MADE_FOR = {"block_coordinate": codes.block}


@dataclass(frozen=True)
class Plan:
    """What needs no torch: the scheme, how long its workers take, and the uplink that they share."""

    scheme: Scheme
    table: DelayTable | None
    uplink: network.Uplink | None = None


def plan(given: Given) -> Plan:
    """The scheme, the delays and the uplink.

    Raises:
        ConfigError: names file, key, value and what is allowed.
    """
    return Plan(_scheme(given), _delays(given), _uplink(given))


def _scheme(given: Given) -> Scheme:
    table, workers = given.config.scheme, given.config.cluster.workers
    whole = _scheme_for(given, workers)
    if table.elastic is None:
        return whole
    if any(whole.inner):
        raise given.refuse(
            "scheme.elastic",
            f"does not go with scheme {table.name!r}: cluster.topology fixes which workers are under which edge node",
        )

    @functools.cache
    def build(number: int) -> Scheme:
        if number == workers:
            return whole
        try:
            return _scheme_for(given, number, whole.partitions)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix(f"{given.source}: ")) from error

    # What has no scheme for fewer workers mostly has none for one worker less: better said before the training.
    try:
        if workers > 1:
            build(workers - 1)
        return schemes.elastic(build, workers, table.elastic.patience)
    except ValueError as error:
        raise given.refuse(
            "scheme.elastic", f"needs a scheme for {workers - 1} of the {workers} workers, too: {error}"
        ) from error


def _scheme_for(given: Given, workers: int, partitions: int | None = None) -> Scheme:
    """The scheme for so many workers; with ``partitions`` for fewer than were configured, with that many partitions.

    What the number of workers bounds is then lowered to what it allows.
    """
    table = given.config.scheme
    entries = {entry.name: entry for entry in schemes.available()}
    if table.name not in entries:
        raise given.refuse("scheme.name", f"is no scheme; it {allowed(table.name, entries)}")
    construct = entries[table.name].construct
    arguments = table.arguments
    if partitions is not None and isinstance(arguments.get("k"), int):
        arguments["k"] = min(arguments["k"], workers)
    context: dict[str, Any] = {"workers": workers, "partitions": partitions}
    if _takes(construct, "workers_per_edge"):
        context["workers_per_edge"] = _workers_per_edge(given, f"scheme {table.name!r}")
    coded = [
        name
        for name, entry in entries.items()
        if _takes(entry.construct, "code") and name not in {*codes.REGISTRY, *_MADE_FOR}
    ]
    if table.name in _MADE_FOR and table.code is None:
        its = {name: value for name, value in arguments.items() if name in ("sizes", "partitions", "max_error")}
        arguments = {name: value for name, value in arguments.items() if name not in its}
        context["code"] = call(given, "scheme", _MADE_FOR[table.name], its, context, others=list(arguments))
    elif _takes(construct, "code") and table.name not in coded and table.code is None:
        # It is named after the one code that it is made for, and the table is that of both.
        mine = [name for name in inspect.signature(construct).parameters if name != "code"]
        context["code"] = _code(given, "scheme", table, workers, partitions, others=mine)
        arguments = {name: value for name, value in arguments.items() if name in mine}
    elif table.name in coded:
        if table.code is None:
            raise ConfigError(
                f"{given.source}: scheme.code is missing: scheme {table.name!r} needs a table [scheme.code] whose name "
                f"{allowed('', codes.REGISTRY)}"
            )
        own = None if _takes(construct, "partitions") else arguments.pop("partitions", None)
        lower = partitions is not None
        context["code"] = _code(given, "scheme.code", table.code, workers, partitions if lower else own, lower)
    elif table.code is not None:
        with_code = ", ".join(coded)
        raise given.refuse("scheme.code", f"is not used by scheme {table.name!r}; schemes with a code: {with_code}")
    scheme: Scheme = call(given, "scheme", construct, arguments, context)
    return scheme if table.compression is None else _compressed(given, scheme, table.compression)


def _compressed(given: Given, scheme: Scheme, table: CompressionTable) -> Scheme:
    """The scheme with its messages through the codec of ``[scheme.compression]``."""
    key = "scheme.compression"
    if table.name not in compression.REGISTRY:
        raise given.refuse(f"{key}.name", f"is no compressor; it {allowed(table.name, compression.REGISTRY)}")
    if (table.rate is None) == (table.memory == "differences"):
        raise given.refuse(f"{key}.rate", 'goes with memory = "differences", which needs it')
    compressor = call(given, key, compression.REGISTRY[table.name], table.arguments)
    try:
        codec: compression.Plain | compression.ErrorFeedback | compression.Differences
        if table.rate is not None:
            codec = compression.Differences(compressor, table.rate)
        else:
            codec = {"none": compression.Plain, "feedback": compression.ErrorFeedback}[table.memory](compressor)
        return schemes.compressed(scheme, codec)
    except ValueError as error:
        raise given.refuse(key, f": {error}") from error


def _code(
    given: Given,
    key: str,
    table: Choice,
    workers: int,
    partitions: int | None,
    lower: bool = False,
    others: Collection[str] = (),
) -> codes.GradientCode:
    if table.name not in codes.REGISTRY:
        raise given.refuse(f"{key}.name", f"is no code; it {allowed(table.name, codes.REGISTRY)}")
    arguments = table.arguments
    if lower and isinstance(arguments.get("stragglers"), int):
        arguments["stragglers"] = min(arguments["stragglers"], workers - 1)
    context: dict[str, Any] = {"workers": workers, "partitions": partitions, "rng": given.config.seed}
    constructor = codes.REGISTRY[table.name].constructor
    if _takes(constructor, "workers_per_edge"):
        context["workers_per_edge"] = _workers_per_edge(given, f"code {table.name!r}")
    code: codes.GradientCode = call(given, key, constructor, arguments, context, others=others)
    return code


def _workers_per_edge(given: Given, who: str) -> tuple[int, ...]:
    """How many workers each edge node has, where all are on one level."""
    shape = given.config.cluster.tree.shape
    if isinstance(shape, int):
        raise ConfigError(
            f"{given.source}: cluster.topology is missing: {who} is for edge nodes; give the number of workers of "
            f"each, such as topology = [3, 3, 4]"
        )
    per_edge = tuple(own for own in shape if isinstance(own, int))
    if len(per_edge) < len(shape):
        raise given.refuse("cluster.topology", f"must be a plain list of numbers of workers: {who} is for one level")
    return per_edge


def _takes(construct: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(construct).parameters


def _delays(given: Given) -> DelayTable | None:
    cluster = given.config.cluster
    if cluster.delays is None:
        return None
    seed, edges = given.config.seed if cluster.seed is None else cluster.seed, len(cluster.tree.edges)
    try:
        found = delays.from_config(cluster.delays, "cluster.delays")
        many = isinstance(found.edges, tuple) and len(found.edges) != edges
        if found.edges is not None and (many or not edges):
            there = f"there are {edges}" if edges else "without cluster.topology there are none"
            raise given.refuse("cluster.delays.edges", f"must be one link, or a list with one per edge node; {there}")
        return found.table(cluster.workers, seed, cluster.tree.above if edges else ())
    except (ValueError, TypeError, OSError) as error:
        message = with_nearest(str(error).split("\n")[0])
        if message.startswith("cluster.delays"):
            message = re.sub(r"^(\S+): (\w+)=", r"\1.\2=", message)
            raise ConfigError(f"{given.source}: {message}") from error
        raise given.refuse("cluster.delays", f": {message}") from error


def _uplink(given: Given) -> network.Uplink | None:
    table, key = given.config.cluster.uplink, "cluster.uplink"
    if table is None:
        return None
    if table.name not in network.CONTROLLERS:
        raise given.refuse(f"{key}.name", f"is no controller; it {allowed(table.name, network.CONTROLLERS)}")
    if table.radio.name not in network.RADIOS:
        raise given.refuse(f"{key}.radio.name", f"is no radio; it {allowed(table.radio.name, network.RADIOS)}")
    context = {"workers": given.config.cluster.workers, "unit": table.unit}
    radio = call(given, f"{key}.radio", network.RADIOS[table.radio.name], table.radio.arguments, context)
    controller = call(given, key, network.CONTROLLERS[table.name], table.arguments, {"radio": radio})
    return network.Uplink(controller, table.unit)


def cluster(given: Given, table: DelayTable | None, uplink: network.Uplink | None = None) -> Cluster:
    """The cluster, not yet open."""
    from gradcode.clusters import LocalCluster, SimulatedCluster

    config = given.config.cluster
    kinds: dict[str, Callable[..., Cluster]] = {"local": LocalCluster, "simulated": SimulatedCluster}
    if config.kind == "ray":
        from gradcode.clusters.ray import RayCluster

        kinds["ray"] = RayCluster
    with blamed(given, "cluster", given.raw["cluster"]):
        return kinds[config.kind](config.workers, delays=table, uplink=uplink, seed=config.seed, **config.options)


@dataclass(frozen=True)
class Learning:
    """What is trained on what, and how."""

    model: nn.Module
    train: Dataset[Any]
    test: Dataset[Any]
    loss: Callable[[Any, Any], torch.Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None


def learning(given: Given) -> Learning:
    """Model, data, loss, optimizer and scheduler; torch's generator is seeded first.

    Raises:
        ConfigError: names file, key, value and what is allowed.
        GradcodeError: a dataset's files are missing.
    """
    import torch

    torch.manual_seed(given.config.seed)
    train, test = _data(given)
    loss = _loss(given)
    model = _model(given, train)
    optimizer = _of_torch(given, "optimizer", given.config.optimizer, torch.optim, "Optimizer", model.parameters())
    scheduler = None
    if given.config.scheduler is not None:
        home = torch.optim.lr_scheduler
        scheduler = _of_torch(given, "scheduler", given.config.scheduler, home, "LRScheduler", optimizer)
        if not hasattr(scheduler, "get_last_lr") or "metrics" in scheduler.step.__code__.co_varnames[1:2]:
            raise given.refuse("scheduler.name", "steps by a metric, which a configuration cannot give it")
    return Learning(model, train, test, loss, optimizer, scheduler)


def _data(given: Given) -> tuple[Dataset[Any], Dataset[Any]]:
    from gradcode.catalog import DATASETS

    pair = _part(given, "data", given.config.data, DATASETS)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        found = type(pair).__name__
        raise given.refuse("data.target", f"must return (train, test), two map-style datasets, not a {found}")
    return pair[0], pair[1]


def _model(given: Given, train: Dataset[Any]) -> nn.Module:
    from torch import nn

    from gradcode.catalog import MODELS, shape_and_outputs

    table, context = given.config.model, dict[str, Any]()
    if table.target is None:
        with blamed(given, "data", given.raw["data"]):
            shape, outputs = shape_and_outputs(train)
        context = {"shape": shape, "outputs": outputs}
    model = _part(given, "model", table, MODELS, context)
    if not isinstance(model, nn.Module):
        raise given.refuse("model.target", f"must return a torch.nn.Module, not a {type(model).__name__}")
    return model


def _loss(given: Given) -> Callable[[Any, Any], torch.Tensor]:
    from torch import nn

    losses = {name: getattr(nn, name) for name in dir(nn) if name.endswith("Loss")}
    short = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}
    loss: Callable[[Any, Any], torch.Tensor] = _part(given, "loss", given.config.loss, {**short, **losses})
    return loss


def _part(
    given: Given,
    key: str,
    table: Part | ModelTable,
    known: Mapping[str, Callable[..., Any]],
    context: Mapping[str, Any] | None = None,
) -> Any:
    """What the table names, built from its arguments."""
    within = ".arguments" if isinstance(table, ModelTable) else ""
    if table.target is not None:
        return call(given, key, target(given, key, table.target), table.arguments, within=within)
    assert table.name is not None
    if table.name not in known:
        raise given.refuse(f"{key}.name", f"{allowed(table.name, known)}; or give target instead of name")
    return call(given, key, known[table.name], table.arguments, context, within=within)


def _of_torch(given: Given, key: str, table: Choice, home: Any, base: str, subject: Any) -> Any:
    """An optimizer over parameters, or a scheduler of an optimizer, by the name of its class."""
    root = getattr(home, base)
    known = {
        name: own
        for name, own in vars(home).items()
        if isinstance(own, type) and issubclass(own, root) and own is not root and not name.startswith("_")
    }
    if table.name not in known:
        raise given.refuse(f"{key}.name", f"is not in {home.__name__}; it {allowed(table.name, known)}")
    return call(given, key, known[table.name], table.arguments, positional=(subject,))


def session(given: Given, plan: Plan, parts: Learning) -> Session:
    """The session, with its workers running.

    Raises:
        ConfigError: model, data, loss and batch do not fit together.
        WorkerError: a worker could not start.
    """
    import torch

    from gradcode.clusters.edge import check_edges
    from gradcode.session import Session

    config, options = given.config, given.config.session
    for index, device in enumerate(options.devices):
        try:
            known = torch.device(device)
        except RuntimeError as error:
            raise given.refuse("session.devices", f'names no device in {device!r}; use "cpu" or "cuda:0"') from error
        here = config.cluster.kind != "ray"  # Ray's workers have the GPUs of their own machines
        if here and known.type == "cuda" and (known.index or 0) >= torch.cuda.device_count():
            raise given.refuse("session.devices", f"[{index}] is not there: {torch.cuda.device_count()} GPUs are seen")
    dtype = None if options.reply_dtype is None else getattr(torch, options.reply_dtype)
    with blamed(given, "scheme", given.raw["scheme"]):
        check_edges(plan.scheme.layout, plan.scheme.inner)
    machine = cluster(given, plan.table, plan.uplink)
    try:
        return Session(
            parts.model,
            parts.loss,
            parts.train,
            config.batch_size,
            plan.scheme,
            machine,
            config.seed,
            optimizer=parts.optimizer,
            sampling=options.sampling,
            drop_last=options.drop_last,
            micro_batch=options.micro_batch,
            devices=options.devices,
            reply_dtype=dtype,
        )
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        message = str(error).split("\n")[0]
        given_here = {"batch_size": config.batch_size, **options.model_dump()}
        for key in given_here:
            if f"{key}=" in message:
                where = key if key == "batch_size" else f"session.{key}"
                raise given.refuse(where, message.removeprefix(f"{key}={given_here[key]!r} ")) from error
        raise ConfigError(f"{given.source}: [model], [data] and [loss] do not fit together: {message}") from error
