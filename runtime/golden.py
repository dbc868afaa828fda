"""Golden tensors: a stage's recorded inputs and outputs, read from an archive without trust."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np

from .errors import BundleError
from .tensor import Array, TensorSpec


def read_golden(
    data: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], where: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tensors ``in.<name>`` and ``out.<name>`` of the .npz in ``data``, by name.

    Raises BundleError, with ``where``, unless the archive holds exactly these arrays; nothing is
    unpickled and nothing is inflated beyond the declared sizes.
    """
    wanted = {f"in.{spec.name}.npy": spec for spec in inputs}
    wanted |= {f"out.{spec.name}.npy": spec for spec in outputs}
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(archive.namelist())
            if names != sorted(wanted):
                raise BundleError(
                    f"{where}: wrong arrays",
                    expected=", ".join(sorted(wanted)),
                    got=ascii(names)[:200],
                )
            for name, spec in wanted.items():
                kind = archive.getinfo(name).compress_type
                if kind not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BundleError(f"{where}: {name} is packed in an unknown way")
                with archive.open(name) as member:
                    # A header is at most 64 KiB; nothing beyond the declared size is inflated.
                    content = member.read(spec.nbytes + (1 << 16))
                arrays[name] = _array(content, spec, f"{where}: {name}")
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise many types
        raise BundleError(
            f"{where} cannot be read", got=str(error)[:200], fix="Fetch the bundle again."
        ) from None
    return (
        {spec.name: arrays[f"in.{spec.name}.npy"] for spec in inputs},
        {spec.name: arrays[f"out.{spec.name}.npy"] for spec in outputs},
    )


def _array(content: bytes, spec: TensorSpec, where: str) -> Array:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise BundleError(f"{where}: unknown array version", expected="1.0", got=str(version))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape != spec.shape or dtype != np.dtype(spec.dtype) or fortran:
        raise BundleError(f"{where}: wrong array", expected=str(spec), got=f"{dtype} {shape}")
    body = content[stream.tell() :]
    if len(body) != spec.nbytes:
        raise BundleError(where, expected=f"{spec.nbytes} bytes", got=f"{len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)
