"""Remove unused files from a layer, compile its modules to byte-code, and set fixed times.

This runs in a build stage on the folder that becomes a layer. Lambda cannot write byte-code there, and without it a cold
start takes twice as long. With unchecked hashes Python ignores the time of a module, so the layer does not depend on it.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

# Found by comparing with the files that a process has opened and imported after predicting an image of each format.
UNUSED = (
    "bin",
    "**/*.pyi",
    "**/tests",
    "*.dist-info/sboms",
    "*.dist-info/INSTALLER",  # these three depend on the installer, and RECORD on the path of its Python
    "*.dist-info/RECORD",
    "*.dist-info/REQUESTED",
    ".lock",  # uv's
    "onnxruntime/capi/libonnxruntime.so*",  # for C programs; the Python module contains its own copy
    "onnxruntime/backend",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/_core/_*tests*.so",
    "numpy/_core/_simd*.so",
    "numpy/_core/defchararray.py",
    "numpy/_core/strings.py",
    "numpy/_pyinstaller",
    "numpy/conftest.py",
    "numpy/core",
    "numpy/ctypeslib",
    "numpy/doc",
    "numpy/f2py",
    "numpy/fft",
    "numpy/lib/recfunctions.py",
    "numpy/ma",
    "numpy/matlib.py",
    "numpy/polynomial",
    "numpy/random",
    "numpy/testing",
    "PIL/*FontFile.py",
    "PIL/ImageCms.py",
    "PIL/ImageDraw*.py",
    "PIL/ImageFont.py",
    "PIL/ImageGrab.py",
    "PIL/ImageMath.py",
    "PIL/ImageMorph.py",
    "PIL/ImageQt.py",
    "PIL/ImageShow.py",
    "PIL/ImageText.py",
    "PIL/ImageTk.py",
    "PIL/ImageWin.py",
    "PIL/_imagingcms*.so",
    "PIL/_imagingft*.so",
    "PIL/_imagingmath*.so",
    "PIL/_imagingmorph*.so",
    "PIL/_imagingtk*.so",
    "pillow.libs/libbrotli*",  # these five libraries are needed only by the modules above
    "pillow.libs/libfreetype*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/liblcms2*",
    "pillow.libs/libpng16*",
)


def slim(layer: Path, *, bytecode: bool = True) -> None:
    """Remove unused files, compile the rest, and set fixed modes and times."""
    for pattern in UNUSED:
        for path in list(layer.joinpath("var", "task").glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    mode = PycInvalidationMode.UNCHECKED_HASH
    if bytecode and not compileall.compile_dir(layer, quiet=1, stripdir=layer, prependdir="/", invalidation_mode=mode):
        raise SystemExit("cannot compile the modules to byte-code")
    for path in [layer, *layer.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
        os.utime(path, (0, 0))


if __name__ == "__main__":
    slim(Path(sys.argv[1]), bytecode="--no-bytecode" not in sys.argv)
