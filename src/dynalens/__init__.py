"""Lightning callbacks that show which samples a classifier forgets, where it looks, and which labels are wrong."""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred

if TYPE_CHECKING:
    from dynalens.attribution import (
        Explanation,
        ablation_cam,
        attention_rollout,
        completeness_gap,
        contrast,
        deconvolution,
        explain,
        find_embedding,
        find_target_layer,
        grad_cam,
        grad_cam_plus_plus,
        gradient_rollout,
        guided_backprop,
        guided_grad_cam,
        input_x_gradient,
        integrated_gradients,
        interior_gradient,
        layer_cam,
        pixel_relevance,
        rect_grad,
        reduce_channels,
        resize,
        saliency,
        score_cam,
        smooth_grad,
        token_relevance,
        transition_attention,
    )
    from dynalens.auditing import Audit
    from dynalens.callbacks import AttributionMonitor, ConceptMonitor, LayerMonitor, TrainingDynamicsMonitor
    from dynalens.capture import CaptureError
    from dynalens.concepts import Dissection, dissect, tcav
    from dynalens.datasets import IndexedDataset, RelabelledDataset
    from dynalens.decisions import apply_decisions
    from dynalens.dynamics import GradientNoise, SampleStatistics, TrainingDynamics
    from dynalens.embeddings import embed
    from dynalens.explanations import ExplainedEpoch, load_explanations
    from dynalens.faithfulness import (
        CurveSettings,
        area_under_curve,
        average_drop,
        average_increase,
        baseline_images,
        consensus,
        deletion_curve,
        faithfulness_curves,
        infidelity,
        insertion_curve,
        kar_datasets,
        local_fidelity,
        pointing_game,
        random_ranking_control,
        randomisation_check,
        rank_correlation,
        relevance_mass,
        replaced_fractions,
        roar_datasets,
        sensitivity_max,
        symmetric_relevance_gain,
    )
    from dynalens.features import feature_maps, first_layer_weights, maximise_activation
    from dynalens.identity import SampleIdentityError
    from dynalens.influences import Influence, influence, self_influence
    from dynalens.logs import dissection_sheet, normlime_sheet, tree_picture
    from dynalens.observation import undisturbed
    from dynalens.record import Record, audit, audit_plan, load_record
    from dynalens.report import influence_sheet, show_in_report
    from dynalens.robustness import SmallestStep, corrupted, corrupted_margins, smallest_step
    from dynalens.similarity import prototypes, similar_samples
    from dynalens.surrogates import LimeMaps, TreeSurrogate, lime_maps, normlime, tree_surrogate
    from dynalens.suspicion import NoiseRate, neighbour_scores, removable
else:
    __getattr__, __dir__ = deferred(
        __name__,
        attribution="""
            Explanation ablation_cam attention_rollout completeness_gap contrast deconvolution explain find_embedding
            find_target_layer grad_cam grad_cam_plus_plus gradient_rollout guided_backprop
            guided_grad_cam input_x_gradient integrated_gradients interior_gradient layer_cam
            pixel_relevance rect_grad reduce_channels resize saliency score_cam smooth_grad
            token_relevance transition_attention
        """,
        auditing="Audit",
        callbacks="AttributionMonitor ConceptMonitor LayerMonitor TrainingDynamicsMonitor",
        capture="CaptureError",
        concepts="Dissection dissect tcav",
        datasets="IndexedDataset RelabelledDataset",
        decisions="apply_decisions",
        dynamics="GradientNoise SampleStatistics TrainingDynamics",
        embeddings="embed",
        explanations="ExplainedEpoch load_explanations",
        faithfulness="""
            CurveSettings area_under_curve average_drop average_increase baseline_images consensus deletion_curve
            faithfulness_curves infidelity insertion_curve kar_datasets local_fidelity pointing_game
            random_ranking_control randomisation_check rank_correlation relevance_mass
            replaced_fractions roar_datasets sensitivity_max symmetric_relevance_gain
        """,
        features="feature_maps first_layer_weights maximise_activation",
        identity="SampleIdentityError",
        influences="Influence influence self_influence",
        logs="dissection_sheet normlime_sheet tree_picture",
        observation="undisturbed",
        record="Record audit audit_plan load_record",
        report="influence_sheet show_in_report",
        robustness="SmallestStep corrupted corrupted_margins smallest_step",
        similarity="prototypes similar_samples",
        suspicion="NoiseRate neighbour_scores removable",
        surrogates="LimeMaps TreeSurrogate lime_maps normlime tree_surrogate",
    )

__all__ = [
    "AttributionMonitor",
    "Audit",
    "CaptureError",
    "ConceptMonitor",
    "CurveSettings",
    "Dissection",
    "ExplainedEpoch",
    "Explanation",
    "GradientNoise",
    "IndexedDataset",
    "Influence",
    "LayerMonitor",
    "LimeMaps",
    "NoiseRate",
    "Record",
    "RelabelledDataset",
    "SampleIdentityError",
    "SampleStatistics",
    "SmallestStep",
    "TrainingDynamics",
    "TrainingDynamicsMonitor",
    "TreeSurrogate",
    "ablation_cam",
    "apply_decisions",
    "area_under_curve",
    "attention_rollout",
    "audit",
    "audit_plan",
    "average_drop",
    "average_increase",
    "baseline_images",
    "completeness_gap",
    "consensus",
    "contrast",
    "corrupted",
    "corrupted_margins",
    "deconvolution",
    "deletion_curve",
    "dissect",
    "dissection_sheet",
    "embed",
    "explain",
    "faithfulness_curves",
    "feature_maps",
    "find_embedding",
    "find_target_layer",
    "first_layer_weights",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_rollout",
    "guided_backprop",
    "guided_grad_cam",
    "infidelity",
    "influence",
    "influence_sheet",
    "input_x_gradient",
    "insertion_curve",
    "integrated_gradients",
    "interior_gradient",
    "kar_datasets",
    "layer_cam",
    "lime_maps",
    "load_explanations",
    "load_record",
    "local_fidelity",
    "maximise_activation",
    "neighbour_scores",
    "normlime",
    "normlime_sheet",
    "pixel_relevance",
    "pointing_game",
    "prototypes",
    "random_ranking_control",
    "randomisation_check",
    "rank_correlation",
    "rect_grad",
    "reduce_channels",
    "relevance_mass",
    "removable",
    "replaced_fractions",
    "resize",
    "roar_datasets",
    "saliency",
    "score_cam",
    "self_influence",
    "sensitivity_max",
    "show_in_report",
    "similar_samples",
    "smallest_step",
    "smooth_grad",
    "symmetric_relevance_gain",
    "tcav",
    "token_relevance",
    "transition_attention",
    "tree_picture",
    "tree_surrogate",
    "undisturbed",
]
