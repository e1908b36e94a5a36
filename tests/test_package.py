"""What `import muse_jax` offers."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import muse_jax

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
import muse_jax

assert not [name for name in sys.modules if name.startswith("muse_jax.")], "nothing is imported yet"
names = dir(muse_jax)
print(muse_jax.__version__, *[name for name in names if not name.startswith("_")])
assert muse_jax.sampling.masked_decode and muse_jax.load_pipeline is muse_jax.systems.base.load_pipeline
try:
    muse_jax.nothing
except AttributeError as error:
    print(error)
"""


def test_public_names_are_listed_and_imported_when_they_are_used():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed, refused = done.stdout.splitlines()
    version, *names = listed.split()
    assert version.count(".") == 2
    packages = {path.parent.name for path in (ROOT / "muse_jax").glob("*/__init__.py")}
    assert {"CogView2Pipeline", "MusePipeline", "load_pipeline", *packages} <= set(names)
    assert refused == "module 'muse_jax' has no attribute 'nothing'"


def test_no_module_defines_a_name_twice():
    for path in [*(ROOT / "muse_jax").rglob("*.py"), *(ROOT / "pallas_kernels").rglob("*.py")]:
        seen: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and not isinstance(node, ast.AugAssign | ast.For):
                    assert target.id not in seen, f"{path} assigns {target.id} twice"
                    seen.add(target.id)


def test_public_names_are_documented():
    packages = [info.name for info in pkgutil.walk_packages(muse_jax.__path__, "muse_jax.") if info.ispkg]
    for package in map(importlib.import_module, ["muse_jax", *packages]):
        assert package.__doc__, package.__name__
        for name in set(getattr(package, "__all__", ())) - {"__version__"}:
            value = getattr(package, name)
            if isinstance(
                value, type | FunctionType | ModuleType
            ):  # aliases of types say it where they are defined
                # A dataclass without a docstring gets its signature as one.
                document = (value.__doc__ or "").removeprefix(value.__name__ + "(")
                assert document == value.__doc__, f"{package.__name__}.{name} has no docstring"
