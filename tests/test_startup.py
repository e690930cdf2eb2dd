"""Packages that a job does not import at its start."""

import subprocess
import sys

import pytest
from lightning_utilities.core import imports

from cifar_lightning.startup import unused_left_out


def test_unused_packages_are_hidden_from_torchmetrics():
    before = imports.package_available
    with unused_left_out():
        assert not imports.package_available("scipy")
        assert not imports.RequirementCache("torchvision")
        assert not imports.RequirementCache("matplotlib")
        assert imports.package_available("numpy")
        assert imports.RequirementCache("torch")
    assert imports.package_available is before
    assert imports.RequirementCache("torchvision")


JOB = """
import sys
from cifar_lightning.startup import importing
with importing():
    import cifar_lightning.run.training
assert not {"scipy", "torchvision", "matplotlib"} & {*sys.modules}, "imported"
import scipy.signal, torchvision.ops, cifar_lightning.report.plots
from torchmetrics.classification import MulticlassAccuracy
"""


@pytest.mark.soak
def test_a_job_does_not_import_unused_packages_but_still_can():
    subprocess.run([sys.executable, "-c", JOB], check=True, timeout=120)
