"""No circle of modules, imports for types included; the layers are import-linter's."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp

PUBLIC_FACE = ("estafeta.job.job", "estafeta")
"""The one import that may run upwards: `Job.train` is `estafeta.train`."""


def test_modules_import_each_other_in_no_circle() -> None:
    graph = grimp.build_graph("estafeta", cache_dir=None)
    importer, imported = PUBLIC_FACE
    assert graph.direct_import_exists(importer=importer, imported=imported)
    graph.remove_import(importer=importer, imported=imported)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
