"""What this package replaces in Lightning's training loop, all in one place.

Lightning 2.6's loop spends some 0.3 ms of Python on a step that a small network finishes in 1 ms, broadcasts a flag
between the ranks before every batch (https://github.com/Lightning-AI/pytorch-lightning/issues/21487), runs collectives
inside a signal handler, where two ranks deadlock
(https://github.com/Lightning-AI/pytorch-lightning/issues/20806), and cannot say in a checkpoint whether the validation
at the end of an epoch is still to come. `install` gives a Trainer a loop without these; callbacks, strategies and
precision are Lightning's own, and so is the optimisation wherever a hook, clipping, accumulation or a gradient scaler
has a part in it.
"""

from collections import OrderedDict
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor
from torch.optim import Optimizer


def install(trainer: Trainer) -> None:
    """Replaces the loop and the signal handlers of a Trainer that has not run yet."""
    old = trainer.fit_loop
    loop = FitLoop(trainer, min_epochs=old.min_epochs, max_epochs=old.max_epochs)
    loop.epoch_loop = EpochLoop(trainer, min_steps=old.epoch_loop.min_steps, max_steps=old.epoch_loop.max_steps)
    loop.epoch_loop.automatic_optimization = Optimization(trainer)
    trainer.fit_loop = loop
    # Signals are ours: see signals.py. Lightning's handler would broadcast from inside the handler.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


class EpochLoop(_TrainingEpochLoop):
    """One epoch: every batch that is still to come, and the validations that are due."""

    resumed = False  # the counters hold a checkpoint's position: do not reset them

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Trains to the end of the epoch, or to where the Trainer is told to stop."""
        trainer, progress = self.trainer, self.batch_progress
        if not (self.resumed and progress.current.ready):
            for counters in (progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
                counters.reset_on_run()
        self._hooks = {
            name: [callback for callback in trainer.callbacks if _overrides(callback, name)]
            for name in ("on_train_batch_start", "on_train_batch_end")
        }
        assert isinstance(self.automatic_optimization, Optimization)
        self.automatic_optimization.prepare()
        precision = trainer.precision_plugin
        # The loader's batches are float32 already, which is what all but the "true" half precisions take.
        ready = type(precision) is Precision or isinstance(precision, MixedPrecision)
        self._convert = None if ready else precision.convert_input
        self._validates = trainer.enable_validation
        iter(data_fetcher)  # the loader knows where to begin
        if self.resumed and progress.current.ready:
            self._validate_if_due(data_fetcher)
        self.resumed = False
        while not self.done:
            self.advance(data_fetcher)
            self._validate_if_due(data_fetcher)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Trains on one batch, which the loader has made ready on this device."""
        trainer, progress = self.trainer, self.batch_progress
        batch, _, _ = next(data_fetcher)
        if self._convert is not None:
            batch = self._convert(batch)
        batch_idx = progress.current.ready
        progress.increment_ready()
        progress.is_last_batch = progress.current.ready >= trainer.num_training_batches
        log_point = self._is_log_point()
        if log_point:
            trainer._logger_connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        outputs = self.automatic_optimization.run(
            trainer.optimizers[0], batch_idx, OrderedDict(batch=batch, batch_idx=batch_idx)
        )
        progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if progress.is_last_batch:
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if log_point:
            # before the callbacks: a checkpoint they write holds the log as it is after this step
            self._call_module("on_train_batch_end", outputs, batch, batch_idx)
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
        progress.increment_completed()
        if not self._should_accumulate():
            self._batches_that_stepped += 1
        self._call("on_train_batch_end", outputs, batch, batch_idx)

    def _is_log_point(self) -> bool:
        every: int = self.trainer.log_every_n_steps
        return bool(every) and (self._batches_that_stepped + 1) % every == 0

    def _validate_if_due(self, data_fetcher: _DataFetcher) -> None:
        if not self._validates or not self._should_check_val_fx(data_fetcher):
            return
        trainer = self.trainer
        trainer.validating = True
        first = trainer._logger_connector._first_loop_iter
        if not self._should_accumulate():
            self._call_module("on_validation_model_zero_grad")
        self.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first
        self.update_lr_schedulers("step", update_plateau_schedulers=True)

    def _call(self, hook: str, *args: Any) -> None:
        """Calls a per-batch hook of the callbacks that have one: Lightning enters a profiler for each that has not."""
        for callback in self._hooks[hook]:
            getattr(callback, hook)(self.trainer, self.trainer.lightning_module, *args)

    def _call_module(self, hook: str, *args: Any) -> None:
        module = self.trainer.lightning_module
        module._current_fx_name = hook
        getattr(module, hook)(*args)
        module._current_fx_name = None


class Optimization(_AutomaticOptimization):
    """One optimiser step. Where nothing but the optimiser takes part, without asking all who might."""

    # What Lightning calls around a step; a step is plain where nobody has any of them.
    CALLBACK_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
    MODULE_HOOKS = (*CALLBACK_HOOKS, "optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")

    plain = False

    def prepare(self) -> None:
        """Looks, once an epoch, whether the steps are plain."""
        trainer: Any = self.trainer  # connectors set some of its attributes
        module, precision = trainer.lightning_module, trainer.precision_plugin
        self.plain = (
            all(type(optimizer).zero_grad is Optimizer.zero_grad for optimizer in trainer.optimizers)
            and not any(_overrides(callback, hook) for callback in trainer.callbacks for hook in self.CALLBACK_HOOKS)
            and all(getattr(type(module), hook) is getattr(LightningModule, hook) for hook in self.MODULE_HOOKS)
            and type(precision) in (Precision, MixedPrecision)
            and getattr(precision, "scaler", None) is None
            and trainer.gradient_clip_val is None
            and trainer.accumulate_grad_batches == 1
            and type(trainer.profiler) is PassThroughProfiler
            and not trainer.strategy.handles_gradient_accumulation
        )

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Forward, backward and the update."""
        if not self.plain:
            return super().run(optimizer, batch_idx, kwargs)
        strategy, progress = self.trainer.strategy, self.optim_progress.optimizer
        loss = strategy.training_step(*kwargs.values())
        assert isinstance(loss, Tensor)
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        for group in optimizer.param_groups:  # `zero_grad` enters a profiler, which costs more than what it does
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
    """The epochs, with a position that a checkpoint states outright: epochs finished, and batches of the next one."""

    @property
    def done(self) -> bool:
        """Whether to leave the loop: never before the end of an epoch in which the run was interrupted.

        With a max_steps Lightning would leave at once where the last step is done, and the epoch's validation and log
        are not.
        """
        pending = self.epoch_loop.resumed and self.epoch_loop.batch_progress.current.ready
        return not pending and super().done

    @property
    def position(self) -> tuple[int, int]:
        """Epochs finished, and batches done of the epoch after them; all batches where its validation is to come."""
        epochs, batches = self.epoch_progress.current, self.epoch_loop.batch_progress.current
        assert isinstance(epochs, _ProcessedTracker)
        if epochs.processed == epochs.ready and batches.ready >= self.max_batches:
            return epochs.processed, 0
        return max(epochs.ready - 1, 0), batches.ready

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Adds the position to what Lightning keeps."""
        return {**super().on_save_checkpoint(), "position": list(self.position)}

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Goes to a checkpoint's position. Lightning's rules for telling it from its counters are left out."""
        super().load_state_dict(state_dict, prefix)
        epoch, batch = state_dict[prefix + "state_dict"]["position"]
        self.epoch_progress.current = _ProcessedTracker(epoch, epoch, epoch, epoch)
        self.epoch_progress.total = _ProcessedTracker(epoch, epoch, epoch, epoch)
        self.epoch_loop.batch_progress.current = _ProcessedTracker(batch, batch, batch, batch)
        # Of this loop and of those in it. This class's own setter makes it True wherever there is a max_steps.
        _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]
        self._restarting = True  # of this loop alone: without it `setup_data` would not give the loader its position
        assert isinstance(self.epoch_loop, EpochLoop)
        self.epoch_loop.resumed = True
        # A schedule that asks for its length has made the loader before the checkpoint is read: Lightning would then
        # leave it at the start of the epoch.
        self._load_combined_loader_states()
        self._last_train_dl_reload_epoch = epoch  # that loader is the one of this epoch

    def update_restart_stage(self) -> None:
        """Leaves the stage at none: the position says all."""


def _overrides(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook)
