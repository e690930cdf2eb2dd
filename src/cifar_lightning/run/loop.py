"""Everything that this package replaces in Lightning's training loop.

Lightning 2.6's loop has four faults:

- It spends some 0.3 ms of Python on a step that a small network finishes in 1 ms.
- It broadcasts a flag between the ranks before every batch
  (https://github.com/Lightning-AI/pytorch-lightning/issues/21487).
- It runs collectives inside a signal handler, where two ranks deadlock
  (https://github.com/Lightning-AI/pytorch-lightning/issues/20806).
- Its checkpoints cannot say whether the validation at the end of an epoch is still to come.

`install` gives a Trainer a loop without these faults. Callbacks, strategies and precision remain Lightning's, and so
does the optimisation of a step if a hook, clipping, accumulation or a gradient scaler takes part in it. Unlike
Lightning's loop, this one does not let `on_train_batch_start` end an epoch by returning -1: no module here does so.
"""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cifar_lightning.generators import random_states, restore_random_states
from cifar_lightning.run.frozen import freeze, frozen_in

# Hooks that Lightning calls while it moves a batch to its device.
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def install(trainer: Trainer) -> None:
    """Replaces the loop and the signal handlers of a Trainer that has not run yet."""
    old = trainer.fit_loop
    loop = FitLoop(trainer, min_epochs=old.min_epochs, max_epochs=old.max_epochs)
    loop.epoch_loop = EpochLoop(trainer, min_steps=old.epoch_loop.min_steps, max_steps=old.epoch_loop.max_steps)
    loop.epoch_loop.automatic_optimization = Optimization(trainer)
    trainer.fit_loop = loop
    # signals.py handles signals instead: Lightning's handler would run a broadcast inside a signal handler.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


class StepEnd(Callback):
    """A callback with three more hooks, for saving and stopping: they see a step and its log in their final state."""

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called after a step, once its figures are logged and before any validation that follows it."""
        raise NotImplementedError

    def on_validation_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before a validation, before any callback's `on_validation_start`, which may replace the weights."""

    def on_last_step_done(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once after the last step, before any callback's `on_train_end`, which may replace the weights."""


def within_step(trainer: Trainer) -> bool:
    """Whether a step is unfinished: it is still accumulating gradients, which no checkpoint holds."""
    return trainer.fit_loop._should_accumulate()


class EpochLoop(_TrainingEpochLoop):
    """The loop over an epoch's remaining batches, with the validations that are due."""

    automatic_optimization: "Optimization"
    resumed = False  # the counters hold a checkpoint's position: do not reset them
    validates_end = False  # the validation is due only because training ends here: a longer fit would not have it
    end_validated = -1  # the step of such a validation whose figures are in a checkpoint; -1: there is none

    @property
    def done(self) -> bool:
        """Whether to leave the loop: never within a step, even if the Trainer's max_time or a callback stops there."""
        return super().done and (self._num_ready_batches_reached() or not self._should_accumulate())

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Whether a validation is due: also after the last step, and before an early stop only between steps.

        If max_steps ends a fit within an epoch, Lightning leaves the last weights unvalidated. Any weights that were
        validated before would then be selected as the best, however much older they are.
        """
        trainer = self.trainer
        stops, trainer.should_stop = trainer.should_stop, False
        try:
            due = super()._should_check_val_fx(data_fetcher)
        finally:
            trainer.should_stop = stops
        ends = self.global_step == self.max_steps
        if stops and not self._should_accumulate():
            ends = ends or (self._should_check_val_epoch() and trainer.fit_loop._can_stop_early)
        self.validates_end = ends and not due and self.end_validated != self.global_step
        return due or self.validates_end

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Trains to the end of the epoch, or until the Trainer is told to stop."""
        progress = self.batch_progress
        goes_on = self.resumed and progress.current.ready > 0
        self.resumed = False
        if not goes_on:
            for counters in (progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
                counters.reset_on_run()
        self._prepare()
        iter(data_fetcher)  # the loader knows at which batch to begin
        if not self._plain:
            data_fetcher._start_profiler, data_fetcher._stop_profiler = self._on_before_fetch, self._on_after_fetch
        if goes_on:
            self._batches_that_stepped -= 1  # the checkpoint was saved before its step ended, which happens now
            self._end_step(data_fetcher)
        while not self.done:
            self.advance(data_fetcher)
            self._end_step(data_fetcher)

    def _prepare(self) -> None:
        """Finds out, once per epoch, which hooks and callbacks take part in a step."""
        trainer, module = self.trainer, self.trainer.lightning_module
        callbacks: list[Any] = trainer.callbacks
        self._plain = type(trainer.profiler) is PassThroughProfiler
        self._hooks = {
            hook: [getattr(callback, hook) for callback in callbacks if overrides(callback, hook)]
            for hook in ("on_train_batch_start", "on_train_batch_end")
        }
        self._step_ends = [callback for callback in callbacks if isinstance(callback, StepEnd)]
        self._module_hooks = {hook for hook in self._hooks if overrides(module, hook)}
        # Modules and callbacks from other packages may log in any hook.
        own = {type(c).__module__.partition(".")[0] for c in (module, *callbacks)} == {__name__.partition(".")[0]}
        self._logs_everywhere = not own or not self._plain
        self.automatic_optimization.prepare()
        precision = trainer.precision_plugin
        # The loader's batches are already on the device, in float32: only precisions such as bf16-true convert them.
        ready = type(precision) is Precision or isinstance(precision, MixedPrecision)
        self._convert = None if ready else precision.convert_input
        owners = [module, *([trainer.datamodule] if trainer.datamodule else [])]
        self._transfers = not self._plain or any(overrides(owner, hook) for owner in owners for hook in TRANSFER_HOOKS)
        self._validates = trainer.enable_validation

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Trains on one batch, which the loader has already put on this device."""
        trainer, progress = self.trainer, self.batch_progress
        batch, _, _ = next(data_fetcher)
        if self._convert is not None:
            batch = self._convert(batch)
        if self._transfers:
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        batch_idx = progress.current.ready
        progress.increment_ready()
        progress.is_last_batch = progress.current.ready >= trainer.num_training_batches
        logs = self._logs_everywhere
        if logs:
            trainer._logger_connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        with trainer.profiler.profile("run_training_batch"):
            outputs = self.automatic_optimization.run(
                trainer.optimizers[0], batch_idx, OrderedDict(batch=batch, batch_idx=batch_idx)
            )
        progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if progress.is_last_batch:
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", outputs, batch, batch_idx)
        if logs:
            trainer._logger_connector.on_batch_end()
        progress.increment_completed()
        if logs:
            # Lightning logs at every step once a callback has asked to stop, even if min_epochs puts that off; then it
            # would log the last figures again under the numbers of later steps.
            asked, trainer.should_stop = trainer.should_stop, trainer.should_stop and trainer.fit_loop._can_stop_early
            trainer._logger_connector.update_train_step_metrics()
            trainer.should_stop = asked
        if not self._should_accumulate():
            for callback in self._step_ends:
                callback.on_step_end(trainer, trainer.lightning_module)

    def log_step(self, figures: Mapping[str, float]) -> None:
        """Logs a step's figures like `log_dict(..., prog_bar=True)`, which takes half the time of a small step."""
        connector = self.trainer._logger_connector
        if self._logs_everywhere:
            self.trainer.lightning_module.log_dict(figures, prog_bar=True)
            return
        tensors = {name: torch.tensor(value) for name, value in figures.items()}
        connector._callback_metrics.update(tensors)
        connector._logged_metrics.update(tensors)
        connector._progress_bar_metrics.update({name: tensor.item() for name, tensor in tensors.items()})
        connector.log_metrics(tensors)

    def _end_step(self, data_fetcher: _DataFetcher) -> None:
        """Ends a batch, with a validation if one is due: the validation's figures still belong to this step."""
        if self._validates and self._should_check_val_fx(data_fetcher):
            trainer = self.trainer
            for callback in self._step_ends:
                callback.on_validation_due(trainer, trainer.lightning_module)
            trainer.validating = True
            first = trainer._logger_connector._first_loop_iter
            if not self._should_accumulate():
                call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
            if isinstance(model := trainer.strategy.model, DistributedDataParallel):
                # All ranks must validate with the first rank's buffers, which are the ones in a checkpoint. After a
                # batch that only accumulates gradients, DDP would leave every rank its own buffers, such as the means
                # of a torch.nn.BatchNorm2d.
                model.require_forward_param_sync = True
            self.val_loop.run()
            trainer.training = True
            trainer._logger_connector._first_loop_iter = first
        self.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self._should_accumulate():
            self._batches_that_stepped += 1
        self._save_loggers_on_train_batch_end()

    def _call(self, hook: str, *args: Any) -> None:
        """Calls a batch's hook on those that override it: Lightning enters a profiler for each that could."""
        trainer = self.trainer
        if not self._plain:
            call._call_callback_hooks(trainer, hook, *args)
            call._call_lightning_module_hook(trainer, hook, *args)
            if hook == "on_train_batch_start":
                call._call_strategy_hook(trainer, hook, *args)
            return
        module = trainer.lightning_module
        module._current_fx_name = hook
        for function in self._hooks[hook]:
            function(trainer, module, *args)
        if hook in self._module_hooks:
            getattr(module, hook)(*args)
        module._current_fx_name = None


class Optimization(_AutomaticOptimization):
    """The optimisation of a step. A plain step, in which only the optimiser takes part, skips Lightning's hooks."""

    # Hooks that Lightning calls around a step. In a plain step nobody overrides any of them.
    CALLBACK_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
    MODULE_HOOKS = (*CALLBACK_HOOKS, "optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")

    plain = False

    def prepare(self) -> None:
        """Finds out, once per epoch, whether its steps are plain."""
        trainer: Any = self.trainer  # connectors set some of its attributes
        module, precision = trainer.lightning_module, trainer.precision_plugin
        self.plain = (
            all(type(optimizer).zero_grad is Optimizer.zero_grad for optimizer in trainer.optimizers)
            and not any(overrides(callback, hook) for callback in trainer.callbacks for hook in self.CALLBACK_HOOKS)
            and not any(overrides(module, hook) for hook in self.MODULE_HOOKS)
            and type(precision) in (Precision, MixedPrecision)
            and getattr(precision, "scaler", None) is None
            and trainer.gradient_clip_val is None
            and trainer.accumulate_grad_batches == 1
            and type(trainer.profiler) is PassThroughProfiler
            and not trainer.strategy.handles_gradient_accumulation
        )

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Computes the forward pass, the backward pass and the update."""
        if not self.plain:
            return super().run(optimizer, batch_idx, kwargs)
        strategy, progress = self.trainer.strategy, self.optim_progress.optimizer
        loss = strategy.training_step(*kwargs.values())
        assert isinstance(loss, Tensor)
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        for group in optimizer.param_groups:  # `zero_grad` enters a profiler, which costs more than the zeroing
            for param in group["params"]:
                param.grad = None
        progress.zero_grad.increment_completed()
        strategy.pre_backward(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        strategy.post_backward(loss)
        progress.step.increment_ready()
        optimizer.step()
        progress.step.increment_completed()
        return {"loss": loss.detach()}


class FitLoop(_FitLoop):
    """The loop over epochs. A checkpoint states its position outright: epochs finished, and batches of the next one."""

    epoch_loop: EpochLoop

    @property
    def done(self) -> bool:
        """Whether to leave the loop: never before the end of the epoch in which the run was interrupted.

        With max_steps, Lightning would leave at once if the last step is done, although the epoch's validation and log
        are still to come.
        """
        pending = self.epoch_loop.resumed and self.epoch_loop.batch_progress.current.ready
        return not pending and super().done

    @property
    def position(self) -> tuple[int, int]:
        """Epochs finished, and batches done of the next epoch: all of them, if only its validation is still to come."""
        epochs, batches = self.epoch_progress.current, self.epoch_loop.batch_progress.current
        assert isinstance(epochs, _ProcessedTracker)
        if epochs.processed == epochs.ready and batches.ready >= self.max_batches:
            return epochs.processed, 0
        return max(epochs.ready - 1, 0), batches.ready

    def on_advance_start(self) -> None:
        """Begins an epoch. If it resumes midway, `on_train_epoch_start` runs again: some callbacks set up the Trainer.

        Callbacks with a state get it back afterwards, as does what else they may have changed (see `_kept`). Meanwhile
        loggers ignore figures, and no warnings are given: all of them were seen before.
        """
        trainer: Any = self.trainer
        goes_on = self.epoch_loop.resumed and self.epoch_loop.batch_progress.current.ready > 0
        hooks = ("state_dict", "on_train_epoch_start")
        told = [callback for callback in trainer.callbacks if goes_on and all(overrides(callback, h) for h in hooks)]
        states = [deepcopy(callback.state_dict()) for callback in told]
        with ExitStack() as kept:
            for logger in trainer.loggers if goes_on else []:
                kept.enter_context(_muted(logger))
            if goes_on:
                kept.enter_context(_kept(trainer))
            super().on_advance_start()
        for callback, state in zip(told, states, strict=True):
            callback.load_state_dict(state)

    def run(self) -> None:
        """Trains. A fit resumed with no step left still calls the hooks of start and end, which some callbacks need."""
        super().run()
        if self.epoch_loop.resumed:  # still set: no epoch has begun
            self.epoch_loop.resumed = False
            self.on_run_start()
            self.on_run_end()

    def on_run_end(self) -> None:
        """Calls the hooks of the end of training, our own first."""
        trainer = self.trainer
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, StepEnd):
                callback.on_last_step_done(trainer, trainer.lightning_module)
        super().on_run_end()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Adds to Lightning's state the position, and the limits under which training was stopped early."""
        stopped = self._limits if self.trainer.should_stop else None
        ours = {"position": list(self.position), "end_validated": self.epoch_loop.end_validated, "stopped": stopped}
        return {**super().on_save_checkpoint(), **ours}

    @property
    def _limits(self) -> list[Any]:
        """The limits that can be raised to make a fit longer."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        timers = (callback for callback in callbacks if isinstance(callback, Timer))
        return [self.max_epochs, self.max_steps, *(timer._duration for timer in timers)]

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Restores a checkpoint's position, without Lightning's rules for inferring it from counters."""
        super().load_state_dict(state_dict, prefix)
        ours = state_dict[prefix + "state_dict"]
        epoch, batch = ours["position"]
        self.epoch_progress.current = _ProcessedTracker(epoch, epoch, epoch, epoch)
        self.epoch_progress.total = _ProcessedTracker(epoch, epoch, epoch, epoch)
        self.epoch_loop.batch_progress.current = _ProcessedTracker(batch, batch, batch, batch)
        # Resets this loop and the loops in it. _FitLoop's own setter would make it True whenever there is a max_steps.
        _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]
        self._restarting = True  # in this loop alone: otherwise `setup_data` would not give the loader its position
        self.epoch_loop.resumed = True
        self.epoch_loop.end_validated = ours.get("end_validated", -1)  # earlier versions did not save it
        # The callback that stopped training will not be asked again. With a raised limit training continues.
        self.trainer.should_stop |= ours.get("stopped") == self._limits
        self.epoch_loop._batches_that_stepped = self.epoch_loop.global_step
        # A schedule that asks for the number of steps has the loader made before the checkpoint is read: Lightning
        # would then leave the loader at the start of the epoch.
        self._load_combined_loader_states()
        self._last_train_dl_reload_epoch = epoch  # that loader is already this epoch's

    def update_restart_stage(self) -> None:
        """Does nothing, so that the restart stage stays NONE: the position says everything."""


@contextmanager
def _muted(logger: Logger) -> Iterator[None]:
    """A context in which a logger ignores all figures."""
    own = vars(logger)
    before = {"log_metrics": own["log_metrics"]} if "log_metrics" in own else {}  # e.g. a wrapper
    own["log_metrics"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del own["log_metrics"]
        own.update(before)


@contextmanager
def _kept(trainer: Trainer) -> Iterator[None]:
    """A context without warnings that keeps weights, frozen layers, the optimisers' options and random numbers."""
    module, device = trainer.lightning_module, trainer.strategy.root_device
    frozen, states = frozen_in(trainer), random_states(device)
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    options = [deepcopy({name: value for name, value in group.items() if name != "params"}) for group in groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    freeze(trainer, frozen)
    restore_random_states(states, device)
    with torch.no_grad():
        for tensor, value in tensors:
            tensor.copy_(value)
    for group, before in zip(groups, options, strict=True):
        group.update(before)


def overrides(owner: Callback | LightningModule | LightningDataModule, hook: str) -> bool:
    """Whether a hook is overridden, in a class or on the object itself."""
    function = getattr(owner, hook)
    base = next(base for base in (Callback, LightningModule, LightningDataModule) if isinstance(owner, base))
    return getattr(function, "__func__", function) is not getattr(base, hook)
