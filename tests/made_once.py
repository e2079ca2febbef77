"""Folders that one process of the tests makes for all of them: each gets a copy."""

import os
import shutil

from relsdk.files.atomic import hold_lock


def made_once(name, make, tmp_path_factory):
    """Return this process's copy of the folder that the first process to ask for it makes.

    A fixture of a session is one of each of pytest-xdist's workers; what takes many seconds need not be.
    """
    own = tmp_path_factory.getbasetemp()
    of_all = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"{name}-of-all"
    with hold_lock(of_all.with_name(f"{name}.lock"), wait=True):
        if not of_all.exists():
            make(of_all.with_name(f"{name}-half"))
            of_all.with_name(f"{name}-half").rename(of_all)
    return shutil.copytree(of_all, tmp_path_factory.mktemp("of_all") / name, symlinks=True)
