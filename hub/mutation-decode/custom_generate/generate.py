"""transformers' custom_generate: a generate call with mutation-decode in it. The README has the arguments."""

from dataclasses import fields

from mutation_decode import Contrast, Detector, Gate, MutationLogitsProcessor, Skip


def names(kind):
    return [field.name for field in fields(kind)]


STRATEGIES = {"contrast": Contrast, "skip": Skip}
COMMON = [*names(Detector), *names(Gate), "norm", "exact", "anatomy"]
# What told transformers where to find this file; it hands that on.
OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "revision", "token")


def generate(model, strategy=None, **arguments):
    """`model.generate` with a layer-wise strategy in it.

    Args:
        model: whose generate was called; transformers passes it.
        strategy: "contrast" (when left out) or "skip".
        arguments: knobs under their names, and whatever generate takes.

    Returns:
        What generate returns.

    Raises:
        ValueError: if a knob is unknown, belongs to the other strategy or is out of its range.
    """
    arguments = {name: value for name, value in arguments.items() if name not in OF_THE_HUB}
    processors = list(arguments.pop("logits_processor", None) or ())
    if any(isinstance(processor, MutationLogitsProcessor) for processor in processors):
        if strategy is not None:
            raise ValueError("logits_processor holds a MutationLogitsProcessor already; leave strategy out.")
        # The way of the model's class: this function may stand in for the model's own generate.
        return type(model).generate(model, logits_processor=processors, **arguments)
    kind, allowed = _chosen("contrast" if strategy is None else strategy, arguments)
    knobs = {name: arguments.pop(name) for name in allowed if name in arguments}

    def made(kind):
        return kind(**{name: knobs.pop(name) for name in names(kind) if name in knobs})

    with MutationLogitsProcessor(
        model, made(kind), detector=made(Detector), gate=made(Gate), **knobs
    ) as processor:
        try:
            return model.generate(logits_processor=[*processors, processor], **arguments)
        except ValueError as error:
            if "not used by the model" not in str(error):
                raise
            raise ValueError(f"{error} The knobs of this strategy are {', '.join(allowed)}.") from error


def _chosen(strategy, arguments):
    """The class of a strategy, and the names of its knobs."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    kind = STRATEGIES[strategy]
    for name, other in STRATEGIES.items():
        strange = sorted((set(names(other)) - set(names(kind))) & set(arguments))
        if strange:
            raise ValueError(
                f"{', '.join(strange)} belongs to strategy={name!r}; strategy={strategy!r} has the knobs "
                f"{', '.join(names(kind))}."
            )
    return kind, [*names(kind), *COMMON]
