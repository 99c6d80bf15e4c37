"""Who may import whom, read from the source; and what `import mutation_decode` gives."""

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mutation_decode

PACKAGE = Path(mutation_decode.__file__).parent
MUTATIONS = {
    *("decision", "detection", "strategy", "gate", "call", "processor", "decoder", "diagnose"),
    *("observe", "tokens", "propose", "findings", "examine", "asking", "calibration", "calibrate", "cli"),
    *("terminal", "inspecting", "doctor"),
}
MAY_IMPORT = {
    "divergence": set(),
    "readout": {"divergence"},
    "saved": set(),
    "detection": {"divergence", "saved"},
    "strategy": {"detection", "readout", "saved"},
    "gate": {"detection", "divergence", "readout"},
    "agreement": set(),
    "stand_in": set(),
    "uncompiled": {"stand_in"},
    "hooks": set(),
    "states": set(),
    "probe": {"states", "uncompiled"},
    "rollback": {"transformers"},
    "anatomy": {"agreement", "hooks", "probe", "rollback", "states", "transformers"},
    "in_place": {"anatomy"},
    "side_by_side": {"agreement", "anatomy", "probe"},
    "lens": {"agreement", "anatomy", "hooks", "in_place", "probe", "readout", "side_by_side", "uncompiled"},
    "last_position": {"rollback", "transformers"},
    "replay": {"anatomy", "hooks", "lens", "stand_in"},
    "trial": {"agreement", "lens", "probe", "removal"},
    "rerun": {
        "agreement",
        "anatomy",
        "hooks",
        "last_position",
        "lens",
        "replay",
        "rollback",
        "side_by_side",
        "states",
        "trial",
    },
    "removal": {"anatomy", "hooks", "lens", "probe", "rollback", "stand_in", "states", "transformers"},
    "trace_file": {"saved", "safetensors"},
    "pieces": set(),
    "trace": {"divergence", "pieces", "trace_file", "pandas", "datasets"},
    "record": {"divergence", "readout", "trace"},
    "twins": {"agreement", "transformers"},
    "diagnose": {"anatomy", "detection", "divergence", "processor", "readout", "trace", "twins"},
    "intercept": {"stand_in", "transformers"},
    "refusals": {"anatomy", "detection", "gate", "intercept"},
    "plot": {"matplotlib", "numpy", "sklearn", "threadpoolctl", "trace"},
    "decision": {"detection", "divergence", "gate", "readout", "strategy"},
    "call": {"decision", "detection", "divergence", "lens", "readout", "record", "transformers"},
    "processor": {
        "anatomy",
        "call",
        "decision",
        "detection",
        "gate",
        "intercept",
        "lens",
        "record",
        "refusals",
        "removal",
        "rerun",
        "saved",
        "strategy",
        "trace",
        "transformers",
        "twins",
        "uncompiled",
    },
    "page": {"bokeh", "divergence", "jinja2", "numpy", "trace", "PIL"},
    "words": set(),
    "resampling": {"numpy"},
    "encoding": {"probe", "PIL"},
    "observe": {"anatomy", "detection", "numpy", "processor", "readout", "transformers"},
    "tokens": {"numpy", "observe", "words"},
    "findings": {"numpy", "observe", "propose", "resampling", "tokens", "words"},
    "examine": {"anatomy", "findings", "observe", "words"},
    "gain": {"numpy", "resampling", "words"},
    "propose": {"detection", "gate", "numpy", "strategy", "tokens"},
    "asking": {"anatomy", "encoding", "gain", "observe", "processor", "propose", "words"},
    "calibration": {
        *("detection", "gate", "processor", "propose", "resampling", "saved", "strategy", "tokens"),
    },
    "calibrate": {
        *("anatomy", "asking", "calibration", "encoding", "findings", "gain", "propose", "resampling"),
        *("saved", "words"),
    },
    "examples": {"asking", "encoding"},
    "terminal": {"pieces", "processor", "transformers"},
    "inspecting": {
        *("calibration", "encoding", "page", "processor", "record", "strategy", "terminal", "trace"),
    },
    "doctor": {"PIL", "anatomy", "detection", "encoding", "gate", "lens", "processor", "strategy"},
    "loading": {"safetensors", "transformers"},
    "cli": {
        *("calibrate", "diagnose", "doctor", "encoding", "examples", "inspecting", "loading", "terminal"),
    },
    "decoder": {"anatomy", "detection", "gate", "intercept", "processor", "record", "strategy", "trace"},
}


def modules(package: Path) -> list[Path]:
    """The files of a package inside ours."""
    return sorted(package.glob("*.py"))


def imported(module: str) -> set[str]:
    """Our own modules and third-party packages that a module imports, wherever in it."""
    names: set[str] = set()
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else modules(PACKAGE / module)
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not node.module:
                names.update(alias.name for alias in node.names)
            else:
                names.add((node.module or "").split(".")[0])
    own = {path.stem for path in files} if len(files) > 1 else set()
    return names - set(sys.stdlib_module_names) - {"torch"} - own


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_imports_run_one_way(module: str) -> None:
    assert imported(module) <= MAY_IMPORT[module]


def test_every_module_has_its_place() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | packages == set(MAY_IMPORT)


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
        "trial",
        "twins",
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
    assert names <= {*mutation_decode.__all__, "page", "plot"}


def test_public_names() -> None:
    assert set(mutation_decode.__all__) == {
        *("MutationLogitsProcessor", "MutationDecoder", "Contrast", "Detector", "Mutations", "Strategy"),
        *("ForwardStrategy", "Gate", "Skip", "diagnose", "Diagnosis", "with_twins"),
        "Record",
        *("calibrate", "Calibration", "Example", "Findings", "Proposal", "examine"),
        *("LogitLens", "Readout", "Anatomy", "Trace", "js_divergence", "adjacent_js", "__version__"),
    }
    assert all(hasattr(mutation_decode, name) for name in mutation_decode.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", mutation_decode.__version__)


@pytest.mark.parametrize("old", ["4.57.6", "5.9.0", "5.9.1.dev0"])
def test_old_transformers_are_refused_at_import_before_anything_is_imported_from_them(
    tmp_path: Path, old: str
) -> None:
    """A package of that version which holds nothing else, in a process that finds it first."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text(f"__version__ = {old!r}\n")
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-c", "import mutation_decode"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"needs transformers 5.10 or later, found {old}; pip install -U transformers."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"ImportError: mutation_decode {told}")


def versions(*lines: str) -> dict[str, str]:
    """Package -> what is asked for it, in lines of setup.cfg or of a file of constraints."""
    asked = [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]
    return {each.name: str(each.specifier) for each in asked}


def test_the_lower_bounds_are_the_versions_of_make_test_oldest() -> None:
    """No bound is claimed that no test ran with; torch is the same in both environments."""
    root = PACKAGE.parent
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    extras = config["options.extras_require"]
    asked = "\n".join(
        [config["options"]["install_requires"], *(extras[k] for k in ("inspect", "plots", "bench", "test"))]
    )
    bounds = versions(*asked.splitlines())
    oldest = versions(*(root / "constraints-oldest.txt").read_text().splitlines())
    newest = versions(*(root / "constraints.txt").read_text().splitlines())
    assert oldest["torch"] == newest["torch"]
    assert {name: oldest.get(name) for name in bounds} == {
        **{name: bound.replace(">=", "==") for name, bound in bounds.items()},
        "torch": newest["torch"],
        "transformers": "==5.10.1",  # 5.10.0 was withdrawn
    }
