"""The ``.npz`` files of ADM's evaluation, read and written in parts because they can exceed the memory."""

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
from openhart.errors import UserError, reason
from openhart.evaluation.metrics.frechet import Statistics
from openhart.evaluation.metrics.resizing import to_array

IMAGES = "arr_0"
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class BatchFile:
    """The content of a sample file or of a reference file.

    Attributes:
        path: the file.
        shape: (N, H, W, 3) of the images, or None if the file contains only statistics.
        pool: statistics of the pooled features, or None if they are not stored.
        spatial: statistics of the spatial features, or None if they are not stored.
    """

    path: Path
    shape: tuple[int, int, int, int] | None
    pool: Statistics | None
    spatial: Statistics | None

    def batches(self, size: int) -> Iterator[Images]:
        """Read the images in file order, ``size`` at a time: uint8 (B, H, W, 3).

        Raises:
            UserError: the file contains no images or is truncated.
        """
        if self.shape is None:
            raise UserError(
                f"{self.path} contains statistics but no images ({IMAGES}): give a file with images"
            )
        with _opened(self.path, IMAGES) as (stream, _):
            picture = int(np.prod(self.shape[1:]))
            for start in range(0, self.shape[0], size):
                count = min(size, self.shape[0] - start)
                data = stream.read(count * picture)
                if len(data) < count * picture:
                    raise UserError(f"{self.path} is truncated: {IMAGES} ends before image {start + count}")
                yield np.frombuffer(data, dtype=np.uint8).reshape(count, *self.shape[1:])


def read_batch_file(path: Path) -> BatchFile:
    """Open a sample file or a reference file of ADM's evaluation.

    ``arr_0`` contains the images, ``mu`` and ``sigma`` the statistics of the pooled features, ``mu_s`` and
    ``sigma_s`` those of the spatial features. If ``mu`` is stored, all statistics come from the file and none
    is computed; otherwise stored spatial statistics are ignored, as in the published program.

    Raises:
        UserError: the file does not exist, is not an ``.npz`` file, or has arrays of the wrong shape.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give an .npz file with {IMAGES}, uint8 (N, H, W, 3)")
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys = set(stored.files)
            arrays = {name: stored[name] for name in ("mu", "sigma", "mu_s", "sigma_s") if name in keys}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"cannot read {path} as an .npz file: {reason(error)}") from error
    if not keys & {IMAGES, "mu"}:
        found = ", ".join(sorted(keys)) or "nothing"
        raise UserError(
            f"{path} must contain {IMAGES} (images) or mu and sigma (statistics), but it contains {found}"
        )
    shape = _image_shape(path) if IMAGES in keys else None
    pool = _statistics(path, arrays, "")
    return BatchFile(path, shape, pool, pool and _statistics(path, arrays, "_s"))


def _statistics(path: Path, arrays: dict[str, Any], suffix: str) -> Statistics | None:
    mean, covariance = arrays.get(f"mu{suffix}"), arrays.get(f"sigma{suffix}")
    if mean is None and covariance is None:
        return None
    if mean is None or covariance is None or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path} must contain mu{suffix} of shape (D,) and sigma{suffix} of shape (D, D)")
    return Statistics(mean, covariance)


def _image_shape(path: Path) -> tuple[int, int, int, int]:
    with _opened(path, IMAGES) as (_, (shape, fortran_order, dtype)):
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape or fortran_order:
            raise UserError(f"{IMAGES} of {path} must be uint8 of shape (N, H, W, 3), got {dtype} {shape}")
        return shape[0], shape[1], shape[2], shape[3]


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
    """Pack images into the sample file that ADM's evaluator reads.

    The order is shuffled because the evaluator computes the inception score in parts of 5,000 images in file
    order: 50,000 images stored class by class score about 62 instead of about 298.

    Args:
        paths: the image files, all of one size.
        target: the ``.npz`` file; it appears only when it is complete.
        read: opens an image.
        seed: seed of the shuffle; None keeps the given order.

    Raises:
        UserError: there are no images, or their sizes differ.
        OSError: the file cannot be written.
    """
    if not paths:
        raise UserError("a sample file needs at least one image")
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
                    f"all images of a sample file must have one size, but {paths[0]} is "
                    f"{shape[1]}×{shape[0]}, and {paths[index]} is {picture.shape[1]}×{picture.shape[0]}"
                )
            stream.write(picture.tobytes())
