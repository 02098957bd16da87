#!/usr/bin/env bash
# torch 2.13.0: torch.compiler.disable is documented as a decorator that keeps a function out of torch.compile.
# Applying it imports torch._dynamo at once, whether or not anything is ever compiled; torch itself marks its
# functions with torch._disable_dynamo, which imports it when a decorated function first runs.
# Seen: a module of one decorated function imports 1,938 modules in 4.5 s, the same without the decorator 1,115 in
# 2.4 to 2.6 s, so that a library which decorates one method nearly doubles the time that its
# users wait for `import`.
# Fails if applying the decorator ceases to import torch._dynamo, or torch imports it by itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/decorated.py" <<'PYTHON'
import torch


@torch.compiler.disable
def lookup(rows, ids):
    return rows[ids]
PYTHON
cat > "$folder/plain.py" <<'PYTHON'
import torch


def lookup(rows, ids):
    return rows[ids]
PYTHON
cd "$folder"
for module in plain decorated plain decorated; do
  "$folder/venv/bin/python" - "$module" <<'PYTHON'
import importlib
import sys
import time

name = sys.argv[1]
start = time.perf_counter()
importlib.import_module(name)
seconds = time.perf_counter() - start
has_compiler = "torch._dynamo" in sys.modules
print(f"{name}: {len(sys.modules)} modules, torch._dynamo {'is' if has_compiler else 'is not'} among them, {seconds:.1f} s")
assert has_compiler == (name == "decorated"), name
PYTHON
done
