"""``python -m benchmarks.analysis figure=[js,words] model=[NAME] image=FILE``: see conf/analysis.yaml."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from benchmarks.__main__ import command, mistakes_in
from benchmarks.mistakes import CONF


@hydra.main(config_path=str(CONF), config_name="analysis", version_base="1.3")
def job(config: DictConfig) -> None:
    """The figures of all models, or one call of a sweep."""
    from benchmarks.analysis.analyse import run  # torch, transformers: not for --help, nor a mistyped key

    folder = Path(HydraConfig.get().runtime.output_dir)
    with mistakes_in(folder):
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        run({str(key): value for key, value in resolved.items()}, folder)


def main() -> None:
    """Exit code 0, or 2 with one line on stderr; a bug keeps its traceback."""
    command(job, "analysis")


if __name__ == "__main__":
    main()
