"""Leave in the image what the handler can use: remove the rest, compile to byte-code, make the times the same each time.

Run in a build stage on the folder that becomes a layer. Lambda cannot write byte-code there, and a cold start without
it takes twice as long. Python does not look at a module's time with unchecked hashes, so the layer does not depend on it.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

# Found by looking at what a process has open and imported after it has answered a picture of each format.
UNUSED = (
    "bin",
    "**/*.pyi",
    "**/tests",
    "*.dist-info/sboms",
    "onnxruntime/capi/libonnxruntime.so*",  # for programs in C; Python's module holds the same once more
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
    "obstore/auth",
    "obstore/fsspec.py",
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
    "pillow.libs/libbrotli*",  # needed by the ones above alone, as are the next
    "pillow.libs/libfreetype*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/liblcms2*",
    "pillow.libs/libpng16*",
)


def slim(layer: Path) -> None:
    """Remove, compile and settle."""
    for pattern in UNUSED:
        for path in list(layer.joinpath("var", "task").glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    mode = PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(layer, quiet=1, stripdir=layer, prependdir="/", invalidation_mode=mode):
        raise SystemExit("byte-code could not be made")
    for path in [layer, *layer.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
        os.utime(path, (0, 0))


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
