"""Image batches in the files that ADM's evaluation exchanges (``.npz``), larger than memory if need be."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.evaluation.metrics.frechet import Statistics
from openhart.evaluation.metrics.resizing import to_array

IMAGES = "arr_0"
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class BatchFile:
    """What a file of image batches holds.

    Attributes:
        path: the file.
        shape: (N, H, W, 3), or None where it holds statistics alone.
        pool: statistics of the pooled features, if they are stored.
        spatial: statistics of the spatial features, if they are stored.
    """

    path: Path
    shape: tuple[int, int, int, int] | None
    pool: Statistics | None
    spatial: Statistics | None

    def batches(self, size: int) -> Iterator[Images]:
        """The images in file order, ``size`` at a time, uint8 (B, H, W, 3).

        Raises:
            UserError: the file holds no images, or ends too early.
        """
        if self.shape is None:
            raise UserError(f"{self.path} holds statistics and no images ({IMAGES})")
        with _opened(self.path, IMAGES) as (stream, _):
            picture = int(np.prod(self.shape[1:]))
            for start in range(0, self.shape[0], size):
                count = min(size, self.shape[0] - start)
                data = stream.read(count * picture)
                if len(data) < count * picture:
                    raise UserError(f"{self.path} is cut short: {IMAGES} ends before image {start + count}")
                yield np.frombuffer(data, dtype=np.uint8).reshape(count, *self.shape[1:])


def read_batch_file(path: Path) -> BatchFile:
    """Open a sample batch or a reference file of ADM's evaluation.

    ``arr_0`` has the images; ``mu`` and ``sigma`` the statistics of pooled features, ``mu_s`` and ``sigma_s``
    those of spatial ones. Where ``mu`` is there, all statistics are taken from the file and none is computed;
    where it is not, stored spatial statistics are ignored, as in the published program.

    Raises:
        UserError: there is no such file, it is none of numpy's, or what it holds does not fit.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give an .npz with {IMAGES}, uint8 (N, H, W, 3)")
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys = set(stored.files)
            arrays = {name: stored[name] for name in ("mu", "sigma", "mu_s", "sigma_s") if name in keys}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"cannot read {path} as an .npz file: {error}") from error
    if not keys & {IMAGES, "mu"}:
        found = ", ".join(sorted(keys)) or "nothing"
        raise UserError(f"{path} must hold {IMAGES} (images) or mu and sigma (statistics), it holds {found}")
    shape = _image_shape(path) if IMAGES in keys else None
    pool = _statistics(path, arrays, "")
    return BatchFile(path, shape, pool, pool and _statistics(path, arrays, "_s"))


def _statistics(path: Path, arrays: dict[str, Any], suffix: str) -> Statistics | None:
    mean, covariance = arrays.get(f"mu{suffix}"), arrays.get(f"sigma{suffix}")
    if mean is None and covariance is None:
        return None
    if mean is None or covariance is None or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path} must hold mu{suffix} of shape (D,) and sigma{suffix} of shape (D, D)")
    return Statistics(mean, covariance)


def _image_shape(path: Path) -> tuple[int, int, int, int]:
    with _opened(path, IMAGES) as (_, (shape, fortran_order, dtype)):
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape or fortran_order:
            raise UserError(f"{IMAGES} of {path} must be uint8 of shape (N, H, W, 3), it is {dtype} {shape}")
        return shape


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[Any, bool, np.dtype]]]:
    """The data of one array inside an ``.npz`` as a stream, and its shape, order and type."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        old = version < (2, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        yield stream, read(stream)


def write_sample_batch(
    paths: Sequence[Path], target: Path, read: Callable[[Path], Image.Image], seed: int | None = 0
) -> None:
    """Pack pictures into a sample batch as ADM's evaluator reads it.

    The order is shuffled, because the inception score is computed in parts of 5,000 in file order: 50,000
    pictures stored class by class score about 62 instead of about 298.

    Args:
        paths: of the pictures, all of one size.
        target: the ``.npz`` to write; it appears only when it is complete.
        read: opens a picture.
        seed: of the shuffle; None keeps the order given.

    Raises:
        UserError: there are no pictures, or they are of several sizes.
        OSError: the file cannot be written.
    """
    if not paths:
        raise UserError("a sample batch needs at least one picture")
    order = range(len(paths)) if seed is None else np.random.default_rng(seed).permutation(len(paths))
    shape = to_array(read(paths[0])).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
    with (
        written_whole(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as stream,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        for index in order:
            picture = to_array(read(paths[index]))
            if picture.shape != shape:
                raise UserError(
                    f"the pictures of a sample batch must be of one size: {paths[0]} is "
                    f"{shape[1]}×{shape[0]}, {paths[index]} is {picture.shape[1]}×{picture.shape[0]}"
                )
            stream.write(picture.tobytes())
