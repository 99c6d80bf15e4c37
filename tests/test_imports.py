"""Who may import whom, read from the source; and what `import mutation_decode` gives."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mutation_decode

PACKAGE = Path(mutation_decode.__file__).parent
MUTATIONS = {"decision", "detection", "strategy", "gate", "call", "processor", "decoder"}
MAY_IMPORT = {
    "divergence": set(),
    "readout": {"divergence"},
    "detection": {"divergence"},
    "strategy": {"detection", "readout"},
    "gate": {"detection", "readout"},
    "agreement": set(),
    "stand_in": set(),
    "uncompiled": {"stand_in"},
    "states": set(),
    "probe": {"states", "uncompiled"},
    "rollback": {"transformers"},
    "anatomy": {"agreement", "probe", "rollback", "states", "transformers"},
    "in_place": {"anatomy"},
    "side_by_side": {"agreement", "anatomy", "probe"},
    "lens": {"agreement", "anatomy", "in_place", "probe", "readout", "side_by_side", "uncompiled"},
    "last_position": {"rollback", "transformers"},
    "replay": {"anatomy", "lens", "stand_in"},
    "rerun": {
        "agreement",
        "anatomy",
        "last_position",
        "lens",
        "probe",
        "replay",
        "rollback",
        "side_by_side",
        "states",
    },
    "removal": {"anatomy", "lens", "probe", "rollback", "stand_in", "states", "transformers"},
    "trace": {"divergence"},
    "intercept": {"stand_in", "transformers"},
    "refusals": {"intercept"},
    "plot": {"numpy", "matplotlib"},
    "decision": {"detection", "divergence", "gate", "readout", "strategy"},
    "call": {"decision", "detection", "divergence", "lens", "readout", "trace", "transformers"},
    "processor": {
        "anatomy",
        "call",
        "decision",
        "detection",
        "gate",
        "intercept",
        "lens",
        "refusals",
        "removal",
        "rerun",
        "strategy",
        "trace",
        "transformers",
        "uncompiled",
    },
    "decoder": {"anatomy", "detection", "gate", "intercept", "processor", "strategy", "trace"},
}


def imported(module: str) -> set[str]:
    """Our own modules and third-party packages that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not node.module:
                names.update(alias.name for alias in node.names)
            else:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"torch"}


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_imports_run_one_way(module: str) -> None:
    assert imported(module) <= MAY_IMPORT[module]


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(MAY_IMPORT)


def test_the_lower_line_knows_nothing_of_mutations() -> None:
    lower = (
        "anatomy",
        "lens",
        "readout",
        "rollback",
        "last_position",
        "replay",
        "rerun",
        "removal",
        "trace",
        "intercept",
        "stand_in",
        "uncompiled",
        "states",
        "probe",
    )
    for module in lower:
        assert not imported(module) & MUTATIONS


def test_the_harness_and_the_hub_folder_use_public_names_only() -> None:
    names: set[str] = set()
    for path in (
        path for folder in ("benchmarks", "hub") for path in (PACKAGE.parent / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mutation_decode"):
                assert node.module == "mutation_decode", f"{path} imports from {node.module}"
                names.update(alias.name for alias in node.names)
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("mutation_decode") for alias in node.names), path
    assert "MutationLogitsProcessor" in names
    assert names <= {*mutation_decode.__all__, "plot"}


def test_public_names() -> None:
    assert set(mutation_decode.__all__) == {
        *("MutationLogitsProcessor", "MutationDecoder", "Contrast", "Detector", "Mutations", "Strategy"),
        *("ForwardStrategy", "Gate", "Skip"),
        *("LogitLens", "Readout", "Anatomy", "Trace", "js_divergence", "adjacent_js", "__version__"),
    }
    assert all(hasattr(mutation_decode, name) for name in mutation_decode.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", mutation_decode.__version__)


def test_old_transformers_are_refused_at_import() -> None:
    code = "import transformers; transformers.__version__ = '5.9.1'; import mutation_decode"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs transformers 5.10 or later, found 5.9.1; pip install -U transformers" in done.stderr
