"""The 45 pitfalls of packed multimodal training, each with the tests that close it.

What fits nowhere else is tested in `test_pitfalls_packing.py` (borders), `test_pitfalls_media.py` (placeholders and
features) and here; this file holds the list to the truth: every test that it names is there."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from mmtrain import checkpoint, sft
from tests.mmtrain.test_sft import arguments, same_weights, trace

ROOT = Path(__file__).parents[1]
PACKING, MEDIA, ROWS = ("mmtrain/test_pitfalls_packing.py", "mmtrain/test_pitfalls_media.py", "mmtrain/test_rows.py")
CHAT, COLLATE, SEPARATE = ("test_templates_chat.py", "test_collate.py", "mmtrain/test_packed_equals_separate.py")
CLOSED = {
    1: ("attention over borders", f"{PACKING}::test_loss_and_gradients_are_those_of_the_samples_alone"),
    2: ("a leak that no loss shows", f"{PACKING}::test_nothing_in_a_sample_moves_another_by_a_bit"),
    3: ("`use_cache` in the text config", f"{PACKING}::test_loss_and_gradients_are_those_of_the_samples_alone"),
    4: ("a mask of two axes", f"{COLLATE}::test_what_would_leak_is_refused", f"{COLLATE}::test_every_tensor"),
    5: ("M-RoPE of three rows", f"{COLLATE}::test_what_would_leak_is_refused"),
    6: (
        "positions over the whole pack",
        "families/test_qwen.py::test_positions_are_those_of_the_model_and_start_anew_in_every_segment",
        f"{PACKING}::test_loss_and_gradients_are_those_of_the_samples_alone",
    ),
    7: ("missing type ids", f"{COLLATE}::test_what_would_leak_is_refused"),
    8: ("B > 1", f"{COLLATE}::test_every_tensor", "mmtrain/test_attention.py::test_what_would_leak_is_refused"),
    9: (
        "padding that falls apart, borders that stop short",
        f"{COLLATE}::test_every_tensor",
        f"{PACKING}::test_nothing_in_a_sample_moves_another_by_a_bit",
        f"{SEPARATE}::test_padding_changes_nothing_and_stays_finite",
    ),
    10: ("a label over a border", f"{COLLATE}::test_refusals", f"{COLLATE}::test_every_tensor"),
    11: ("a mean of means", "mmtrain/test_step.py::test_accumulation_and_ranks_change_nothing"),
    12: ("labels counted before the shift", f"{PACKING}::test_loss_and_gradients_are_those_of_the_samples_alone"),
    13: ("a model's own count", f"{PACKING}::test_loss_and_gradients_are_those_of_the_samples_alone"),
    14: (
        "no targets",
        f"{SEPARATE}::test_no_targets_give_zero_loss_and_zero_gradients",
        "mmtrain/test_losses.py::test_no_targets_cost_nothing_and_reach_every_weight",
    ),
    15: ("NaN, and a step taken", "mmtrain/test_gate.py::test_a_bad_sample_is_skipped_and_named_and_the_rest_goes_on"),
    16: ("NaN on one rank", "mmtrain/test_gate.py::test_ranks_skip_together_and_go_on"),
    17: ("placeholders cut off", "stream/test_fit.py::test_placeholders_and_media_belong_together"),
    18: ("answers without their media", "stream/test_fit.py::test_texts_are_cut_and_media_go_with_their_exchange"),
    19: (
        "counts that round otherwise",
        f"{MEDIA}::test_placeholders_are_counted_from_sizes_as_transformers_counts_them",
        f"{MEDIA}::test_models_make_a_feature_for_every_placeholder",
    ),
    20: ("roles found by token", f"{CHAT}::test_special_tokens_spelled_by_a_text_stay_text"),
    21: ("a mask that spills", f"{CHAT}::test_ids_and_mask_are_those_of_transformers_turn_by_turn"),
    22: ("a mask shifted by images", f"{CHAT}::test_media_lie_where_the_template_puts_their_markers"),
    23: ("turns tokenised alone", f"{CHAT}::test_ids_and_mask_are_those_of_transformers_turn_by_turn"),
    24: ("no stop, or two", f"{CHAT}::test_an_answer_without_an_end_gets_one"),
    25: ("placeholders in the loss", f"{MEDIA}::test_no_label_is_a_placeholder"),
    26: ("padding in the loss", f"{COLLATE}::test_padded_rows_are_the_segments"),
    27: (
        "media on one rank alone",
        f"{MEDIA}::test_a_dummy_pack_adds_nothing_and_reaches_what_the_others_reach",
        "mmtrain/test_distributed.py::test_two_ranks_train_as_one_and_resume_as_one",
        "mmtrain/test_sharding.py::test_two_shards_learn_what_one_process_does",
    ),
    28: ("a dummy that counts", f"{MEDIA}::test_a_dummy_pack_adds_nothing_and_reaches_what_the_others_reach"),
    29: ("LoRA in the tower", "mmtrain/adapters/test_targets.py::test_all_linear_stays_inside_its_component"),
    30: (
        "what is frozen moves",
        "mmtrain/adapters/test_install.py::test_what_is_frozen_stays_and_rests",
        "mmtrain/test_optim.py::test_rules_decide_what_moves_when_and_how_fast",
    ),
    31: ("rates of groups lost", "mmtrain/test_pitfalls.py::test_rates_of_groups_go_on"),
    32: (
        "data again, or never",
        "mmtrain/test_sft.py::test_killed_at_random_steps_the_trace_is_the_same",
        "mmtrain/test_sft.py::test_killed_at_twenty_random_steps_the_trace_is_the_same",
    ),
    33: ("windows off by one", "mmtrain/test_attention.py::test_hugging_face_decoders_packed_are_separate_ones"),
    34: (
        "images that look both ways",
        "mmtrain/test_certificate.py::test_what_looks_both_ways_needs_masks",
        f"{PACKING}::test_nothing_in_a_sample_moves_another_by_a_bit",
    ),
    35: ("convolutions over borders", "mmtrain/test_certificate.py::test_a_model_that_cannot_be_packed_is_told_so"),
    36: ("long samples count more", "mmtrain/test_losses.py::test_norms_are_their_sentence"),
    37: ("weights over counts", "mmtrain/test_losses.py::test_norms_are_their_sentence"),
    38: ("a picture of zeros", f"{MEDIA}::test_a_picture_of_zeros_keeps_its_features"),
    39: (
        "videos that do not stack",
        f"{MEDIA}::test_videos_of_onevision_can_be_stacked",
        "families/test_videos.py::test_llava_onevision_videos_are_all_equally_long",
    ),
    40: ("orders of patches", f"{MEDIA}::test_patches_put_together_are_the_resized_picture"),
    41: (
        "tables resized otherwise",
        "views/test_positions.py::test_tables_as_siglip2_resizes_them",
        "views/test_positions.py::test_tables_as_qwen3_resizes_them",
        "views/test_positions.py::test_rotary_angles_of_patches",
    ),
    42: (
        "padding in tokens a second",
        "mmtrain/test_monitor.py::test_tokens_add_up",
        "mmtrain/test_monitor.py::test_padding_is_none_of_the_real_tokens",
    ),
    43: ("MFU by wrong counts", "mmtrain/test_flops.py"),
    44: (
        "another sample in place of a bad one",
        "stream/test_damage.py::test_what_does_not_decode_as_planned_is_masked_in_its_place",
    ),
    45: ("evaluation that disturbs", "mmtrain/test_held_out.py::test_training_knows_nothing_of_evaluations"),
}


@functools.cache
def named(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("number", range(1, 46))
def test_every_pitfall_is_closed_by_tests_that_are_there(number: int) -> None:
    _, *closing = CLOSED[number]
    assert closing
    for name in closing:
        file, _, test = name.partition("::")
        assert test in named(file) if test else any(each.startswith("test_") for each in named(file)), name


def test_rates_of_groups_go_on(folder: Path, tmp_path: Path) -> None:
    """31: of a run with a rate for each part, and one that thaws late, resumed in its middle."""
    rules = (
        "parameters=[{match: 'vision.*', lr: 1e-4}, {match: 'connector.*', lr: 2e-3, weight_decay: 0.2}, "
        "{match: 'language.*', freeze_until: 0.5}]"
    )
    told = ["--set", rules, "steps=6", "checkpoint.every=3", "checkpoint.keep=2"]
    assert sft.main(arguments(folder, tmp_path / "whole", *told)) == 0
    middle = checkpoint.found(tmp_path / "whole")[0]
    assert checkpoint.step_of(middle) == 3
    assert sft.main(arguments(folder, tmp_path / "rest", *told, "--resume", str(middle))) == 0
    whole, rest = trace(tmp_path / "whole"), trace(tmp_path / "rest")
    rates = [key for key in whole[0] if key.startswith("lr/")]
    assert len({whole[4][key] for key in rates}) >= 3
    assert rest == whole[3:]
    assert same_weights(tmp_path / "whole", tmp_path / "rest")
