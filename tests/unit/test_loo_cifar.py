"""The paper's own scale, by the same code at a size for tests."""

from dataclasses import replace

import pytest

from ntklab import data, ledger, nets
from ntklab._deadline import Deadline, OutOfTime
from ntklab.papers import EXPERIMENTS
from ntklab.papers.loo import cifar


def test_the_paper_size_is_the_authors_setting():
    config = EXPERIMENTS["loo-cifar-fixed-kernel"].presets["paper"]
    resnet = nets.ResNet18(zero_last=True)
    assert (config.blocks, config.widths) == (resnet.blocks, resnet.widths)
    network = config.network()
    assert network.zero_last and network.norm == "batch" and network.activation == "relu"
    assert (config.batch_size, config.second_epochs, config.second_rate) == (128, 100, 0.01)
    assert (config.eps, config.train_steps, config.test_steps) == (4 / 255, 20, 100)
    assert set(config.spawns) <= set(config.at) and config.null_at in config.at
    attack = cifar.strategy(config, "adversarial").attack
    assert attack.step_size == pytest.approx(2 * config.eps / 20) and attack.random_start


class Impatient(Deadline):
    """Over each time that it has been asked a number of times, wherever that is."""

    def __init__(self, patience):
        super().__init__(None)
        self.left_over = patience

    def over(self):
        self.left_over -= 1
        return self.left_over <= 0


@pytest.mark.slow
@pytest.mark.skipif(not data.found()["cifar10"], reason="cifar10 is not on this machine")
def test_the_paper_size_goes_on_from_wherever_it_stopped(tmp_path):
    """In a training of each kind, between two blocks of an attack: the values stay the same."""
    experiment = EXPERIMENTS["loo-cifar-fixed-kernel"]
    config = replace(experiment.presets["quick"], seeds=(0,))
    whole = experiment.run(config, workdir=tmp_path / "whole")
    stops, result = [], None
    while result is None:
        try:
            patience = Impatient(7 if len(stops) < 2 else 31)
            again = {"workdir": tmp_path / "cut", "resume": True, "deadline": patience}
            result = experiment.run(config, **again)
        except OutOfTime as stop:
            stops.append(str(stop))
    assert any("training stopped" in s for s in stops) and any("-square-0" in s for s in stops)
    assert (result.values, result.curves) == (whole.values, whole.curves)
    wanted = {n for c in ledger.claims(experiment=experiment.name) for n in c.names}
    assert wanted and wanted <= set(result.values)
