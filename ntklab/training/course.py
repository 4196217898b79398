"""How a run goes: where it stands, and what happens at which step."""

import dataclasses
import functools
import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._compact import compact, restore
from ntklab._deadline import OutOfTime
from ntklab._typing import Array, Number
from ntklab.training import forward
from ntklab.training.forward import Forward, Weights
from ntklab.training.phase import Phase
from ntklab.training.report import Diverged, Progress, Watch
from ntklab.training.step import Plan, advance, no_totals, placed, plan_of
from ntklab.training.store import Store, from_arrays, to_arrays
from ntklab.training.update import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of `train`, checked."""

    module: Any
    phases: tuple[Phase, ...]
    seeds: tuple[int, ...]
    batch_size: int
    dtype: str
    augment: Any
    shuffle: bool
    save_at: tuple[Number, ...]
    save_seconds: Number
    state_mib: Number | None
    kernels: Any
    evaluate: Any
    deadline: Any
    devices: tuple | None
    show_progress: bool


class Place(NamedTuple):
    """Where a run stands: a phase, its steps made, and steps before it."""

    phase: int
    step: int
    before: int


class Course:
    """A run from its first step, or from where it was left, to its last.

    Args:
      settings: see `train`.
      data: images and labels on the device.
      start: initial weights, or None.
      store: where everything is kept.
    """

    def __init__(self, settings: Settings, data: tuple, start: Weights | None, store: Store):
        self.settings, self.store, self.seconds = settings, store, 0.0
        self.many = len(settings.seeds) if len(settings.seeds) > 1 else 0
        self.batches = len(data[0]) // settings.batch_size
        self.steps = [max(1, round(p.epochs * self.batches)) for p in settings.phases]
        self.starts = np.cumsum([0, *self.steps])
        self.sharding, self.data = placed(settings.devices, settings.batch_size, data)
        if self.sharding is not None and self.many:
            raise ValueError("several seeds at once run on one device: give one seed, or devices.")
        self.watch = Watch(data[1])
        self.keys = [jax.random.key(s) for s in settings.seeds]
        steps = [jax.random.fold_in(k, 1) for k in self.keys]
        self.step_keys = jnp.stack(steps) if self.many else steps[0]
        self.place = Place(0, 0, 0)
        self.state = self._begin(self._initial(start))
        self.totals = self._everywhere(no_totals(self.many))
        self.noted, self.spawn, self.latest = {}, None, {}
        self._take_up()
        self.steps_at = {self._step_of(e): e for e in settings.save_at}
        probe = settings.kernels
        self.kernels_at = {} if probe is None else {self._step_of(e): e for e in probe.epochs}

    # Beginnings.

    def _initial(self, start: Weights | None) -> Weights:
        """Random or given weights; with several seeds they are stacked."""
        if start is not None:
            many = [start] * self.many
            return jax.tree.map(lambda *a: jnp.stack(a), *many) if self.many else start
        example = jnp.zeros((1, *self.data[0].shape[1:]), jnp.float32)
        made = []
        for key in self.keys:
            variables = dict(_init(self.settings.module, jax.random.fold_in(key, 0), example))
            made.append(Weights(variables.pop("params"), None, variables))
        return jax.tree.map(lambda *a: jnp.stack(a), *made) if self.many else made[0]

    def _begin(self, weights: Weights) -> TrainState:
        """The state at the start of the present phase, from the weights before it."""
        number = min(self.place.phase, len(self.steps) - 1)
        phase = self.settings.phases[number]
        trained, start, statistics = weights
        if phase.linearised and start is None:
            start, trained = trained, jax.tree.map(jnp.zeros_like, trained)
        elif not phase.linearised and start is not None:
            trained, start = jax.tree.map(jnp.add, start, trained), None
        optimiser = self._plan(number).problem.optimiser()
        memory = jax.vmap(optimiser.init)(trained) if self.many else optimiser.init(trained)
        noise = None
        if hasattr(phase.strategy, "initial_noise"):
            shape = (self.settings.batch_size, *self.data[0].shape[1:])
            noise = phase.strategy.initial_noise(jnp.zeros(shape, jnp.float32))
            noise = jnp.stack([noise] * self.many) if self.many else noise
        # Copies: a step gives its buffers away, and the weights may be the caller's.
        fresh = jax.tree.map(jnp.array, Weights(trained, start, statistics))
        return self._everywhere(TrainState(fresh, memory, noise))

    def _plan(self, number: int) -> Plan:
        s = self.settings
        rest = (s.batch_size, s.augment, self.sharding, self.many)
        return plan_of(s.module, s.phases[number], s.dtype, rest)

    def _everywhere(self, tree: Any) -> Any:
        """The same on every device of the run."""
        if self.sharding is None:
            return tree
        whole = jax.sharding.NamedSharding(self.sharding.mesh, jax.sharding.PartitionSpec())
        return jax.device_put(tree, whole)

    def _step_of(self, epoch: Number) -> int:
        """The cumulative step at which a cumulative epoch is over."""
        before = 0.0
        for phase, first, steps in zip(self.settings.phases, self.starts, self.steps, strict=False):
            if epoch <= before + phase.epochs + 1e-9:
                return int(first) + min(steps, round((epoch - before) * self.batches))
            before += phase.epochs
        raise ValueError(f"epoch {epoch:g} lies after the end of the run, {before:g}.")

    # The loop.

    def finish(self) -> None:
        """Make all steps that are left."""
        total = int(self.starts[-1])
        progress = Progress(total, self.made, "training", self.settings.show_progress)
        try:
            if not self.made:
                self._keep()
                self._save()
            while self.place.phase < len(self.steps):
                self._phase(progress)
        finally:
            progress.close()

    def _phase(self, progress: Progress) -> None:
        """The steps that are left of the present phase, and the change to the next one."""
        plan, number = self._plan(self.place.phase), self.place.phase
        phase, saved = self.settings.phases[number], time.monotonic()
        order, clock = None, time.monotonic()
        while self.place.step < self.steps[number]:
            epoch, position = divmod(self.place.step, self.batches)
            if order is None or position == 0:
                order = self._order(epoch)
            rate = phase.learning_rate(self.place.step / self.batches)
            self.state, self.totals = advance(
                *(plan, self.state, self.totals, self.data, order),
                *(np.int32(position), self.step_keys, np.int32(self.made), np.float32(rate)),
            )
            self.place = self.place._replace(step=self.place.step + 1)
            last = self.place.step == self.steps[number]
            self._keep()
            if position + 1 == self.batches or last:
                clock = self._spent(clock)
                self._row(rate)
                clock = time.monotonic()
            if progress.due:
                progress.show(self.made, self.latest | self._numbers())
            over = self.settings.deadline is not None and self.settings.deadline.over()
            if over or time.monotonic() - saved >= self.settings.save_seconds:
                clock, saved = self._spent(clock), time.monotonic()
                self._save()
            if over and self.made < self.starts[-1]:
                self._stop()
        self._spent(clock)
        self._next()

    def _spent(self, clock: float) -> float:
        jax.block_until_ready(self.totals)
        now = time.monotonic()
        self.seconds += now - clock
        return now

    def _next(self) -> None:
        """Go to the start of the next phase, and save."""
        before = self.place.before + self.steps[self.place.phase]
        self.place = Place(self.place.phase + 1, 0, before)
        if self.place.phase < len(self.steps):
            self.state = self._begin(self.state.weights)
        else:
            still = jax.tree.map(jnp.zeros_like, self.state.optimiser)
            self.state = self.state._replace(optimiser=still)
        self._save()

    def _stop(self) -> None:
        done, total = self.made, int(self.starts[-1])
        raise OutOfTime(f"training stopped at step {done} of {total}, saved.")

    def _order(self, epoch: int) -> Array:
        """The order of the examples in an epoch of the present phase."""
        n = len(self.data[0])
        if not self.settings.shuffle:
            orders = [jnp.arange(n)] * len(self.keys)
        else:
            number = 2 + 1_000_000 * self.place.phase + 2 * epoch
            orders = [jax.random.permutation(jax.random.fold_in(k, number), n) for k in self.keys]
        return self._everywhere(jnp.stack(orders) if self.many else orders[0])

    # What is written.

    @property
    def made(self) -> int:
        """Steps made in all."""
        return self.place.before + self.place.step

    @property
    def epoch(self) -> Number:
        """Cumulative epochs."""
        before = sum(p.epochs for p in self.settings.phases[: self.place.phase])
        return round(before + self.place.step / self.batches, 9)

    def _numbers(self) -> dict[str, Any]:
        """Means since the last row; raises where they are not numbers."""
        totals = jax.device_get(self.totals)
        if not totals.steps.any():
            return {}
        mean = jax.tree.map(lambda total: total / totals.steps, totals.seen)
        loss = mean.loss
        if not np.isfinite(loss).all():
            raise Diverged(
                f"the loss became NaN or infinite in epoch {self.epoch:.3g}; kept so far: "
                f"{self.store.last}. Lower the learning rate or look at the data."
            )
        found = {"loss": loss, "accuracy": mean.correct}
        if np.isfinite(mean.clean_loss).all():
            found |= {"clean_loss": mean.clean_loss, "clean_accuracy": mean.clean_correct}
        return found

    def _row(self, rate: Number) -> None:
        """A row of metrics at the end of an epoch or a phase."""
        self.latest = self._numbers()
        numbers = {name: _plain(value) for name, value in self.latest.items()}
        steps = np.asarray(self.totals.steps)
        constant = np.asarray(self.totals.seen.constant) / steps
        row = {
            "epoch": self.epoch,
            "phase": self.place.phase,
            "step": self.made,
            "learning_rate": rate,
            "seconds": round(self.seconds, 3),
            **numbers,
        }
        if self.settings.evaluate is not None:
            found = [self.settings.evaluate(f, self.epoch) for f in self._functions()]
            row |= {k: _plain(np.asarray([f[k] for f in found])) for k in found[0]}
        warning = self.watch.predictions(self.epoch, constant, int(steps.max()))
        both = (self.noted.pop("warning", None), warning)
        row |= self.noted | ({"warning": " ".join(filter(None, both))} if any(both) else {})
        self.store.add_row(row)
        self.totals, self.noted = jax.tree.map(jnp.zeros_like, self.totals), {}

    def _functions(self) -> list:
        """The trained function of each seed."""
        weights = [self.state.weights]
        if self.many:
            weights = [_of_seed(weights[0], i) for i in range(self.many)]
        return [forward.logits_fn(self._forward(), w) for w in weights]

    def _forward(self) -> Forward:
        phase = self.settings.phases[min(self.place.phase, len(self.steps) - 1)]
        return Forward(self.settings.module, phase.model, self.settings.dtype)

    def _keep(self) -> None:
        """Keep weights, and take kernels, where this step was asked for."""
        step = self.made
        if step in self.steps_at:
            model = self.settings.phases[self.place.phase].model
            arrays = to_arrays(self.state.weights) | {"model": np.array(model)}
            self.store.save(f"epoch-{self.steps_at[step]:g}", arrays)
        if step in self.kernels_at:
            self._take_kernels(self.kernels_at[step])

    def _take_kernels(self, epoch: Number) -> None:
        """The kernels of the present parameters, on the probe's images."""
        key = jax.random.fold_in(self.keys[0], 3)
        found = []
        for number in range(len(self.keys)):
            weights = self.state.weights
            if self.many:
                weights = _of_seed(weights, number)
            params = weights.trained if weights.start is None else weights.start
            found.append(
                self.settings.kernels.take(self.settings.module, params, weights.statistics, key)
            )
        arrays = {
            k: np.stack([f[k] for f in found]) if self.many else found[0][k] for k in found[0]
        }
        self.store.save(f"kernel-{epoch:g}", arrays)
        norms = np.asarray([float(np.linalg.norm(f["clean"])) for f in found])
        self.noted["kernel_norm"] = _plain(norms)
        warning = self.watch.kernel(epoch, float(norms.min()))
        if warning:
            self.noted["warning"] = warning

    def _save(self) -> None:
        """All that the next step needs, atomically."""
        content = {
            **dict(zip(Place._fields, (int(v) for v in self.place), strict=True)),
            "rows": len(self.store.rows),
            "seconds": self.seconds,
            "noted": self.noted,
            "told": sorted(self.watch.told),
            "first_norm": self.watch.first_norm,
            "constant": self.watch.constant,
        }
        arrays = to_arrays(self.state, "state") | to_arrays(self.totals, "totals")
        arrays["content"] = np.array(json.dumps(content))
        limit = self.settings.state_mib
        if limit is not None:
            if not self.place.step:  # what is zero, as momentum is, need not be kept
                self.spawn = {k: a for k, a in arrays.items() if k == "content" or a.any()}
            momentum = [name for name in arrays if name.startswith("state.optimiser")]
            arrays, _ = compact(arrays, limit * 2**20, momentum, self.spawn)
        self.store.save("state", arrays)
        self.store.last = f"the state at epoch {self.epoch:.6g}"

    def _take_up(self) -> None:
        """Go to where an earlier process left the run, if it left anything."""
        arrays = self.store.load("state")
        if arrays is None:
            return
        arrays, note = restore(arrays)
        content = json.loads(str(arrays["content"]))
        self.place = Place(*(content[name] for name in Place._fields))
        self.store.take_rows(content["rows"])
        self.seconds, self.noted = content["seconds"], content["noted"]
        if note:
            self.noted["note"] = note
        if not self.place.step:
            self.spawn = arrays
        self.watch.told, self.watch.first_norm = set(content["told"]), content["first_norm"]
        self.watch.constant = content["constant"]
        template = self._begin(self.state.weights)
        if not self.place.step:
            zeros = to_arrays(jax.tree.map(jnp.zeros_like, (template, self.totals)))
            names = ("state", "totals")
            arrays = {names[int(k[1])] + k[3:]: a for k, a in zeros.items()} | arrays
        self.state = self._everywhere(from_arrays(template, arrays, "state"))
        self.totals = self._everywhere(from_arrays(self.totals, arrays, "totals"))
        self.store.last = f"the state at epoch {self.epoch:.6g}"


@functools.partial(jax.jit, static_argnums=0)
def _init(module: Any, key: Array, x: Array) -> Any:
    return module.init(key, x)


def _of_seed(tree: Any, number: int) -> Any:
    """One of several stacked runs."""
    return jax.tree.map(lambda a: a[number], tree)


def _plain(value: Any) -> Any:
    """A number, or a list of one a seed, for JSON."""
    value = np.asarray(value, np.float64)
    return float(value.reshape(())) if value.size == 1 else value.tolist()
