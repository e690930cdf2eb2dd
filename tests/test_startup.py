"""What a job imports before it begins."""

import subprocess
import sys

import pytest
from lightning_utilities.core import imports

from cifar_lightning.startup import unused_left_out


def test_torchmetrics_is_told_that_what_nobody_uses_is_not_there():
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
def test_a_job_does_without_them_and_may_have_them():
    subprocess.run([sys.executable, "-c", JOB], check=True, timeout=120)
