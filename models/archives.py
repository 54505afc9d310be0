"""Arrays from `.npz` files, of which any may be damaged."""

import zipfile
import zlib

import numpy as np


def read_arrays(file, names, optional=()):
    """Arrays of an `.npz` file: dict from name.

    Args:
        file: path.
        names: of those that must be there.
        optional: names of others that are read if they are there.

    Raises:
        ValueError: if it is no `.npz` file, is damaged, or has not all of them.
    """
    try:
        with np.load(file) as arrays:
            found = set(arrays.files)
            read = {name: arrays[name] for name in (*names, *optional) if name in found}
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, AttributeError, OSError, EOFError) as error:
        raise ValueError(f"{str(file)!r} cannot be read, as if its download was interrupted: {error}") from error
    missing = [name for name in names if name not in read]
    if missing:
        raise ValueError(f"{str(file)!r} has no {' and no '.join(missing)}; found {sorted(found)}.")
    return read
