"""The model ``moe_share``: ESPnet's ASR model plus router losses plus distillation."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_moe_share.batch_counts import BatchCounts, is_distributed
from espnet_moe_share.checkpoint import check_keys, check_shapes
from espnet_moe_share.distillation.loss import embedding_distance
from espnet_moe_share.distillation.tap import EncoderTap
from espnet_moe_share.distillation.teacher import Teacher
from espnet_moe_share.encoder.embedding_network import EmbeddingNetwork, record_embedding
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.counts import count_routing
from espnet_moe_share.experts.epoch_load import EpochLoad
from espnet_moe_share.experts.expert_bias import LossFreeBalancing
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.load import layer_loads
from espnet_moe_share.experts.losses import (
    importance_loss,
    layer_balance_loss,
    pool_balance_loss,
    router_z_loss,
    sparsity_loss,
)
from espnet_moe_share.experts.recording import record_routing, routing_by_layer
from espnet_moe_share.model_conf import (
    check_choice,
    check_losses_act,
    check_network_learns,
    check_teacher_files,
    check_teacher_output_size,
    check_weights,
)
from espnet_moe_share.signature import extend_signature

_BALANCE_LOSSES = {"layer": layer_balance_loss, "pool": pool_balance_loss}
_BATCH_SCOPES = ("global", "local")


@extend_signature
class MoeShareASRModel(ESPnetASRModel):
    """ESPnet's hybrid CTC/attention model with the losses of shared-expert students.

    loss = ESPnet's + balance_weight * balance + router_z_weight * z + distill_weight * distance
           + sparsity_weight * sparsity + importance_weight * importance
           + embedding_ctc_weight * embedding_ctc

    Takes every argument of ``ESPnetASRModel``. With all these weights 0 its loss is ESPnet's, bit
    for bit. Each term is logged as ``loss_balance``, ``loss_router_z``, ``loss_distill``,
    ``loss_sparsity``, ``loss_importance`` and ``loss_embedding_ctc``, and as it enters the sum with
    ``_weighted`` behind; each expert layer's load as ``layer0_feed_forward_largest_share``,
    ``…_dead_experts``, ``…_load_entropy`` and, with a ``capacity_factor``, ``…_dropped_share``.

    The teacher is loaded when training begins (``train()``, or the first step without it), so
    that statistics, inference and packing never need it.

    Args:
        balance_weight: Weight of the load balance loss.
        balance_scope: ``layer``: every layer balanced by itself (Switch Transformers); ``pool``:
            all layers that share experts together (UniPool).
        router_z_weight: Weight of the router z-loss (ST-MoE).
        sparsity_weight: Weight of the sparsity L1 loss (SpeechMoE).
        importance_weight: Weight of the mean importance loss (SpeechMoE).
        embedding_ctc_weight: Weight of the CTC loss, on the model's tokens, of a linear layer on
            the output of the encoder's embedding network (SpeechMoE).
        distill_weight: Weight of the distance between encoder outputs (Bai et al. 2022).
        batch_scope: Over what the terms and the loads are taken where several processes train
            together. ``global``: over the whole batch, as if it were in one process; ``local``:
            over each process's part of it, and then averaged with the weights of ESPnet's trainer,
            which are numbers of utterances. Validation is always ``local``.
        teacher_config: config.yaml of the teacher's training.
        teacher_model_file: Weights of the teacher.
        teacher_output_size: ``output_size`` of the teacher's encoder if it is not the student's;
            a learned projection then leads from the one to the other.

    Raises:
        ConfigurationError: Weights or names that cannot be, or a weight with nothing to act on.
    """

    def __init__(
        self,
        *args: Any,
        balance_weight: float = 0.0,
        balance_scope: str = "layer",
        router_z_weight: float = 0.0,
        sparsity_weight: float = 0.0,
        importance_weight: float = 0.0,
        embedding_ctc_weight: float = 0.0,
        distill_weight: float = 0.0,
        batch_scope: str = "global",
        teacher_config: str | None = None,
        teacher_model_file: str | None = None,
        teacher_output_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        weights = {
            "balance_weight": balance_weight,
            "router_z_weight": router_z_weight,
            "sparsity_weight": sparsity_weight,
            "importance_weight": importance_weight,
            "embedding_ctc_weight": embedding_ctc_weight,
            "distill_weight": distill_weight,
        }
        check_weights(weights)
        check_choice("balance_scope", balance_scope, _BALANCE_LOSSES)
        check_choice("batch_scope", batch_scope, _BATCH_SCOPES)
        check_teacher_files(teacher_config, teacher_model_file)
        check_teacher_output_size(teacher_output_size)
        expert_layers = [
            module for module in self.modules() if isinstance(module, MixtureOfExperts)
        ]
        self.has_capacity = any(layer.capacity_factor is not None for layer in expert_layers)
        self.balancing = LossFreeBalancing(self.encoder)
        self.epoch_load = EpochLoad()
        network = self._embedding_network()
        check_losses_act(
            weights,
            balance_scope,
            has_experts=bool(expert_layers),
            has_biases=bool(self.balancing.biases),
            has_embedding_network=network is not None,
        )
        if self.balancing.biases:
            # Every process computes the same biases from the counts of all.
            torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                self, [f"encoder.{path}" for path in self.balancing.buffer_paths]
            )
        # Weight and loss of what the routers decide, by the name in the logs.
        self.router_losses = {
            "balance": (balance_weight, _BALANCE_LOSSES[balance_scope]),
            "router_z": (router_z_weight, router_z_loss),
            "sparsity": (sparsity_weight, sparsity_loss),
            "importance": (importance_weight, importance_loss),
        }
        self.embedding_ctc_weight = embedding_ctc_weight
        # Of ESPnet's class, but not its `ctc`, which is None with ctc_weight 0.
        self.embedding_ctc = (
            CTC(self.vocab_size, network.output_size())
            if network is not None and embedding_ctc_weight > 0
            else None
        )
        self.distill_weight = distill_weight
        self.batch_scope = batch_scope
        self.teacher: Teacher | None = None
        if teacher_config is not None and teacher_model_file is not None and distill_weight > 0:
            self.teacher = Teacher(teacher_config, teacher_model_file)
        size = self.encoder.output_size()
        self.teacher_output_size = teacher_output_size or size
        # Not made from the teacher's own configuration: the keys of a checkpoint must not depend
        # on a file that is gone when the model is decoded elsewhere.
        self.distill_projection = (
            torch.nn.Linear(size, self.teacher_output_size)
            if self.teacher_output_size != size and distill_weight > 0
            else None
        )

    def _embedding_network(self) -> EmbeddingNetwork | None:
        return getattr(self.encoder, "embedding_network", None)

    def train(self, mode: bool = True) -> "MoeShareASRModel":
        """Set the mode; the first time that training begins, load the teacher.

        Raises:
            ConfigurationError: ``distill_weight`` without a teacher, or one that does not fit; an
                embedding network that nothing would train, and that is not frozen.
        """
        super().train(mode)
        self.balancing.update()  # before a checkpoint is written
        if mode:
            self._begin_training()
        return self

    def _begin_training(self) -> None:
        # Not when the model is built: ESPnet applies its freeze_param later.
        check_network_learns(self._embedding_network(), self.embedding_ctc is not None)
        if self.distill_weight == 0:
            return
        if self.teacher is None:
            raise ConfigurationError(
                f"model_conf distill_weight is {self.distill_weight}, but there is no teacher: "
                "set teacher_config and teacher_model_file, or distill_weight: 0"
            )
        self.teacher.load(self, self.teacher_output_size)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "MoeShareASRModel":
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher.apply(fn)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load strictly, whatever ``strict`` says: ESPnet's own loading passes False.

        Raises:
            CheckpointMismatchError: Names the keys or shapes that differ.
        """
        own = self.state_dict()
        check_keys(own, state_dict, type(self).__name__)
        check_shapes(own, state_dict, type(self).__name__)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute ESPnet's loss and ours.

        Args:
            speech: Waveforms (B, samples).
            speech_lengths: Samples of each (B,).
            text: Token numbers (B, tokens).
            text_lengths: Tokens of each (B,).
            kwargs: ``utt_id`` and the like; handed to ESPnet.

        Returns:
            Loss (1,), what is logged, and the batch size (1,).
        """
        if self.training:
            # Lightning, which trains for ESPnet3, never calls train() of a model that is new and
            # thus in training mode: without this there would be no distillation, and no word of it,
            # nor of an embedding network that nothing trains.
            self._begin_training()
            self.balancing.update()
        teacher = self.teacher if self.teacher is not None and self.teacher.model else None
        tokens = text_lengths.clone()  # with lang_token_id ESPnet adds 1 in place
        with ExitStack() as stack:
            records = stack.enter_context(record_routing(self.encoder))
            if self.embedding_ctc is not None:
                embeddings = stack.enter_context(record_embedding(self.encoder.embedding_network))
            tapped = stack.enter_context(EncoderTap(self)) if teacher is not None else None
            loss, stats, weight = super().forward(
                speech, speech_lengths, text, text_lengths, **kwargs
            )
        if not records and tapped is None:
            return loss, stats, weight
        routings = routing_by_layer(self.encoder, records)
        own = BatchCounts(
            weight,
            tapped.encoder_out_lens.sum() if tapped is not None else weight.new_zeros(()),
            {path: count_routing(routing) for path, routing in routings.items()},
        )
        # Not in eval mode: ESPnet's attention plots run the model in one process alone, which
        # would wait for the others for ever.
        together = self.training and is_distributed()
        needed = self.batch_scope == "global" or bool(self.balancing.biases)
        whole = own.over_all_processes() if together and needed else own
        batch = whole if self.batch_scope == "global" else own
        if self.training:
            self.balancing.count(whole.routing)
            self.epoch_load.add(batch.routing)
        # ESPnet's trainer averages the processes' losses with the numbers of their utterances as
        # weights. Terms that are a part of the whole batch's already have to be added instead.
        dtype = torch.promote_types(loss.dtype, torch.float32)
        scale = batch.utterances.to(dtype) / own.utterances
        counts = list(batch.routing.values())
        parts = {
            name: (term_weight, router_loss(list(routings.values()), counts))
            for name, (term_weight, router_loss) in self.router_losses.items()
            if term_weight > 0
        }
        if teacher is not None and tapped is not None:
            distance = self._distance(teacher, tapped, batch.encoder_frames)
            parts["distill"] = (self.distill_weight, distance)
        terms = {name: (term_weight, scale * part) for name, (term_weight, part) in parts.items()}
        if self.embedding_ctc is not None:
            ((embedding, lengths),) = embeddings
            # a mean over utterances, as ESPnet's own
            loss_ctc = self.embedding_ctc(embedding, lengths, text, tokens)
            terms["embedding_ctc"] = (self.embedding_ctc_weight, loss_ctc)
        for name, (term_weight, term) in terms.items():
            weighted = term_weight * term
            stats[f"loss_{name}"] = term.detach()
            stats[f"loss_{name}_weighted"] = weighted.detach()
            loss = loss + weighted
        stats.update(layer_loads(batch.routing, self.has_capacity))
        stats["loss"] = loss.detach()
        return force_gatherable((loss, stats, weight), loss.device)

    def _distance(
        self, teacher: Teacher, tapped: EncoderTap, num_frames: torch.Tensor
    ) -> torch.Tensor:
        teacher_out, teacher_lens = teacher.encode(tapped.features, tapped.features_lengths)
        student_out = tapped.encoder_out
        if not torch.equal(teacher_lens, tapped.encoder_out_lens):
            raise ConfigurationError(
                f"teacher {teacher.config_file} gives {teacher_lens.tolist()} frames where the "
                f"student gives {tapped.encoder_out_lens.tolist()}; give both the same subsampling"
            )
        if self.distill_projection is not None:
            student_out = self.distill_projection(student_out)
        return embedding_distance(student_out, teacher_out, teacher_lens, num_frames)
