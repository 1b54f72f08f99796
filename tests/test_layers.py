"""The shape of the tree: imports point one way, files are small and say what they own, tests mirror packages."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for package in ("mmdata", "mmtrain") for path in (ROOT / package).rglob("*.py")
)
MOST_LINES = 500
HEAVY = ("torch", "torchvision", "nvidia", "decord", "PIL", "simplejpeg", "pyarrow", "transformers", "numpy", "aiohttp")

# Modules without a test file of their own name, under the file that tests them: what they do shows only there.
TESTED_BY = {
    "tests/test_build.py": [  # The parts of one running build; its tests kill, starve and repeat the whole.
        "mmdata/engine/binding.py",
        "mmdata/engine/channel.py",
        "mmdata/engine/commit.py",
        "mmdata/engine/dry_run.py",
        "mmdata/engine/local.py",
        "mmdata/engine/pool.py",
        "mmdata/engine/recover.py",
        "mmdata/engine/spool.py",
        "mmdata/engine/worker.py",
        "mmdata/job.py",
        "mmdata/ledger.py",
        "mmdata/outputs/finish.py",
        "mmdata/tally.py",
    ],
    "tests/test_compact.py": ["mmdata/engine/compaction.py"],
    "tests/stream/test_pairs.py": [  # Two answers, from a line to two segments of a pack.
        "mmdata/sources/_pairs.py",
        "mmdata/templates/_pairs.py",
    ],
    "tests/mmtrain/preference/test_step.py": [  # Who is asked, and what a run may be told of it.
        "mmtrain/preference/__init__.py",
        "mmtrain/preference/begin.py",
        "mmtrain/preference/held_out.py",
        "mmtrain/preference/reference.py",
        "mmtrain/preference/spec.py",
    ],
    "tests/mmtrain/balance/test_weights.py": [  # What balances have in common, and what they may be told.
        "mmtrain/balance/__init__.py",
        "mmtrain/balance/spec.py",
    ],
    "tests/mmtrain/contrastive/test_command.py": [  # What is told, and what comes of it.
        "mmtrain/contrastive/__init__.py",
        "mmtrain/contrastive/__main__.py",
        "mmtrain/contrastive/evaluation.py",
        "mmtrain/contrastive/spec.py",
    ],
    "tests/mmtrain/contrastive/test_objective.py": [  # Who belongs together, and who weighs what, beside loops.
        "mmtrain/contrastive/exchange.py",
        "mmtrain/contrastive/labels.py",
        "mmtrain/contrastive/negatives.py",
    ],
    "tests/mmtrain/contrastive/test_step.py": ["mmtrain/contrastive/momentum.py"],
    "tests/mmtrain/contrastive/test_towers.py": [  # Beside the original, of its folder; what pairs are read as.
        "mmtrain/contrastive/build.py",
        "mmtrain/contrastive/pairs.py",
        "mmtrain/contrastive/siglip2.py",
    ],
    "tests/test_append.py": ["mmdata/sources/_growth.py"],  # What sources have got since.
    "tests/engine/test_shares.py": ["mmdata/engine/mapped.py"],  # What workers hand over.
    "tests/decode/test_image.py": [  # Reached through the one door, `image`, with every format and damage.
        "mmdata/decode/jpeg.py",
        "mmdata/decode/pillow.py",
        "mmdata/decode/structure.py",
    ],
    "tests/fetch/test_client.py": [  # One request's life, against real servers.
        "mmdata/fetch/connection.py",
        "mmdata/fetch/exchange.py",
        "mmdata/fetch/failure.py",
        "mmdata/fetch/files.py",
    ],
    "tests/fetch/test_limits.py": ["mmdata/fetch/breaker.py"],  # One of the limits.
    "tests/fetch/test_address.py": ["mmdata/fetch/url.py"],  # URLs and what they lead to.
    "tests/outputs/test_parquet.py": ["mmdata/outputs/_rows.py"],  # What rows say, as others read them.
    "tests/test_expression.py": [  # The language is one thing: text in, mask out.
        "mmdata/expression/reader.py",
        "mmdata/expression/values.py",
    ],
    "tests/families/test_llava.py": [  # A family is a row of this table; its tests go through the row.
        "mmdata/families/__init__.py",
        "mmdata/families/_family.py",
    ],
    "tests/test_simulate.py": [  # What it is told, and tells.
        "mmdata/simulation/cluster.py",
        "mmdata/simulation/findings.py",
    ],
    "tests/test_explain.py": [  # What it is told, and renders.
        "mmdata/explain_page/page.py",
        "mmdata/explain_page/pictures.py",
        "mmdata/stream/command.py",
    ],
    "tests/test_report.py": [  # The parts of one page.
        "mmdata/report_page/charts.py",
        "mmdata/report_page/examples.py",
        "mmdata/report_page/page.py",
        "mmdata/report_page/pictures.py",
        "mmdata/report_page/rejected.py",
        "mmdata/report_page/text.py",
    ],
    "tests/test_stats.py": ["mmdata/stats_kept.py", "mmdata/stats_tokens.py"],  # The figures of one file.
    "tests/report_page/test_media.py": ["mmdata/report_page/films.py", "mmdata/report_page/sounds.py"],
    "tests/sources/test_columns.py": ["mmdata/sources/_naming.py"],  # What columns mean.
    "tests/shards/test_columns.py": ["mmdata/shards/arrow.py"],  # Columns are made of them.
    "tests/shards/test_access.py": [  # Files of any kind through the one door.
        "mmdata/shards/local.py",
        "mmdata/shards/remote.py",
        "mmdata/shards/retry.py",
        "mmdata/shards/transport.py",
    ],
    "tests/shards/test_cache.py": ["mmdata/shards/room.py"],
    "tests/shards/test_prefetch.py": ["mmdata/shards/ranges.py"],
    "tests/stream/test_faults.py": ["mmdata/shards/folder.py"],  # Datasets behind URLs.
    "tests/shards/test_interop.py": [  # Bytes by key, against webdataset and datasets.
        "mmdata/shards/dataset.py",
        "mmdata/shards/opened.py",
    ],
    "tests/test_verify.py": [  # Every byte flipped and every cut.
        "mmdata/shards/index.py",
        "mmdata/shards/manifest.py",
        "mmdata/shards/storage.py",
    ],
    "tests/test_forget.py": ["mmdata/shards/tombstones.py"],  # What the command writes.
    "tests/test_index_tables.py": [  # Tables, in place.
        "mmdata/engine/adopt_rows.py",
        "mmdata/shards/rows.py",
        "mmdata/sources/_rows.py",
    ],
    "tests/test_index.py": [  # The parts of one command.
        "mmdata/engine/adopt.py",
        "mmdata/shards/foreign_tar.py",
        "mmdata/sources/_shard_files.py",
    ],
    "tests/test_specfile.py": ["mmdata/spec.py", "mmdata/registry.py"],  # Specs and kinds as a spec file names them.
    "tests/test_boxes.py": [
        "mmdata/boxes/__init__.py",
        "mmdata/boxes/_forms.py",
        "mmdata/boxes/_numbers.py",
    ],  # Formats.
    "tests/mmtrain/test_box_metrics.py": ["mmdata/boxes/points.py"],  # What they read.
    "tests/mmtrain/test_events.py": [
        "mmtrain/event_metrics.py",
        "mmtrain/models/heads/classes.py",
        "mmtrain/models/heads/events.py",
    ],
    "tests/mmtrain/test_hearing.py": ["mmdata/views/waveform.py", "mmtrain/models/hearing.py"],  # Samples to vectors.
    "tests/mmtrain/test_time_frequency.py": ["mmtrain/models/towers/time_frequency.py"],
    "tests/mmtrain/test_spectrogram_towers.py": ["mmtrain/models/towers/spectrograms.py"],
    "tests/mmtrain/test_grounding.py": [  # A head and what it learns from.
        "mmtrain/models/heads/__init__.py",
        "mmtrain/models/heads/box_losses.py",
        "mmtrain/models/heads/grounding.py",
        "mmtrain/models/heads/located.py",
        "mmtrain/models/heads/masks.py",
        "mmtrain/models/heads/targets.py",
    ],
    "tests/steps/test_instruct.py": [  # What the step is told, and says.
        "mmdata/steps/_instruct_task.py",
        "mmdata/steps/_phrasings.py",
    ],
    "tests/steps/test_near_dup.py": ["mmdata/steps/_kept.py"],  # The state that both duplicate steps keep.
    "tests/stream/test_order.py": ["mmdata/rng.py"],
    "tests/stream/test_skips.py": ["mmdata/stream/bad.py", "mmdata/stream/quarantine.py"],  # What is done about skips.
    "tests/stream/test_bytes.py": ["mmdata/stream/stretch.py"],  # Where many samples are read in one go.
    "tests/stream/test_state.py": ["mmdata/stream/extent.py", "mmdata/stream/place.py"],  # What states are made of.
    "tests/stream/test_stream.py": [  # Order, plan and reading show only in what a stream yields.
        "mmdata/stream/arguments.py",
        "mmdata/stream/dataset.py",
        "mmdata/stream/spec.py",
    ],
    "tests/stream/test_plan.py": [  # The parts of one planned block.
        "mmdata/stream/block.py",
        "mmdata/stream/draws.py",
        "mmdata/stream/group.py",
        "mmdata/stream/measure.py",
        "mmdata/stream/planned_media.py",
        "mmdata/stream/pool.py",
        "mmdata/stream/position.py",
        "mmdata/stream/report.py",
    ],
    "tests/stream/test_lengths.py": ["mmdata/stream/tokenizer.py"],  # What its files are named after.
    "tests/stream/test_fit.py": ["mmdata/views/smaller.py"],  # Over all families.
    "tests/stream/test_loader.py": [  # What makes its batches, by threads and by processes.
        "mmdata/stream/device.py",
        "mmdata/stream/handover.py",
        "mmdata/stream/making.py",
        "mmdata/stream/stats.py",
        "mmdata/stream/workers.py",
    ],
    "tests/stream/test_billion.py": ["mmdata/testing/synthetic.py"],  # Data that exist as numbers only.
    "tests/stream/test_damage.py": ["mmdata/stream/reader.py", "mmdata/errors.py"],
    "tests/test_pipelines.py": ["mmdata/testing/demo.py"],  # `make demo` is these steps with more records.
    "tests/test_main.py": ["mmtrain/__main__.py"],  # Both lists of commands.
    "tests/test_doctor.py": ["mmdata/probes.py"],  # What it asks in processes of their own.
    "tests/testing/test_example.py": ["mmdata/testing/faults.py", "mmdata/testing/making.py"],  # What it is made of.
    "tests/testing/test_corruptor.py": ["mmdata/testing/judging.py", "mmdata/testing/specimens.py"],  # What is damaged.
    "tests/testing/test_soak.py": [  # The parts of one command, which runs them all.
        "mmdata/testing/reading.py",
        "mmdata/testing/soak/__main__.py",
        "mmdata/testing/soak/figures.py",
        "mmdata/testing/soak/kills.py",
        "mmdata/testing/soak/links.py",
        "mmdata/testing/soak/media.py",
    ],
    "tests/testing/test_web.py": ["mmdata/testing/accounts.py"],  # Ends, as it says them.
    "tests/testing/test_server.py": ["mmdata/testing/plan.py", "mmdata/testing/serving.py"],  # What it answers by.
    "tests/test_collate.py": ["mmdata/plans.py", "mmdata/types.py", "mmtrain/collate.py"],  # Values, a second name.
    "tests/test_templates.py": [  # What encoding makes of samples, whatever the template.
        "mmdata/templates/_check.py",
        "mmdata/templates/_encode.py",
        "mmdata/templates/_template.py",
        "mmdata/templates/_turns.py",
    ],
    "tests/test_templates_chat.py": [  # Chat templates against transformers.
        "mmdata/templates/_chat.py",
        "mmdata/templates/_codec.py",
        "mmdata/templates/_file.py",
        "mmdata/templates/_skeleton.py",
        "mmdata/templates/_verify.py",
    ],
    "tests/test_templates_plain.py": [  # Ours, their weights, and texts that are too long.
        "mmdata/templates/_plain.py",
        "mmdata/templates/_truncate.py",
        "mmdata/templates/marks.py",
    ],
    "tests/decode/test_audio.py": [  # Whatever the container and codec, through the one door.
        "mmdata/decode/audio_pyav.py",
        "mmdata/decode/container.py",
        "mmdata/decode/wav.py",
    ],
    "tests/decode/test_video.py": [  # Frames by number, against whole decodes and other libraries.
        "mmdata/decode/bitstream.py",
        "mmdata/decode/demux.py",
        "mmdata/decode/packets.py",
        "mmdata/decode/video_facts.py",
        "mmdata/decode/video_peers.py",
        "mmdata/decode/video_pyav.py",
    ],
    "tests/decode/test_dali.py": ["mmdata/decode/dali_pixels.py", "mmdata/decode/dali_steps.py"],
    "tests/decode/test_corpus.py": ["mmdata/decode/jp2.py"],  # What asks for memory that it does not need.
    "tests/families/test_join.py": ["mmdata/families/_join.py"],  # Its name, but for the underscore.
    "tests/families/test_processors.py": [  # Rows of the table against the processors of their models.
        "mmdata/families/_splits.py",
        "mmdata/families/gemma3.py",
        "mmdata/families/idefics3.py",
        "mmdata/families/lfm2_vl.py",
        "mmdata/families/llava_next.py",
        "mmdata/families/llava_onevision.py",
        "mmdata/families/paligemma.py",
        "mmdata/families/pix2struct.py",
        "mmdata/families/pixtral.py",
        "mmdata/families/siglip2.py",
        "mmdata/views/lfm2.py",
    ],
    "tests/families/test_qwen.py": [
        "mmdata/families/_positions.py",
        "mmdata/families/_qwen.py",
        "mmdata/families/qwen2_5_vl.py",
        "mmdata/families/qwen2_vl.py",
        "mmdata/families/qwen3_vl.py",
    ],
    "tests/families/test_videos.py": [
        "mmdata/families/internvl.py",
        "mmdata/families/native.py",
        "mmdata/families/smolvlm.py",
    ],
    "tests/families/test_audio.py": [
        "mmdata/families/_mel.py",
        "mmdata/families/qwen2_5_omni.py",
        "mmdata/families/qwen2_audio.py",
        "mmdata/families/whisper.py",
    ],
    "tests/families/test_checkpoint.py": ["mmdata/families/_settings.py"],
    "tests/test_media_stream.py": [
        "mmdata/stream/assemble.py",
        "mmdata/stream/realize.py",
    ],  # Whole packs of all kinds.
    "tests/views/test_augment.py": ["mmdata/decode/colour.py", "mmdata/views/geometry.py"],  # What moves together.
    "tests/views/test_anyres.py": ["mmdata/views/_picture.py"],
    "tests/views/test_resampled.py": ["mmdata/views/around.py"],
    "tests/views/test_mel.py": ["mmdata/views/mel_filters.py", "mmdata/views/log_mel.py"],
    "tests/views/test_navit.py": [  # Sizes at which models see a picture, one table of cases for all.
        "mmdata/views/naflex.py",
        "mmdata/views/pix2struct.py",
        "mmdata/views/pixtral.py",
        "mmdata/views/qwen.py",
        "mmdata/views/smart_resize.py",
    ],
    "tests/views/test_navit_pixels.py": ["mmdata/views/patches.py"],
    "tests/views/test_pixels.py": ["mmdata/ops.py", "mmdata/views/layout.py"],
    "tests/views/test_positions.py": ["mmdata/views/rotary.py", "mmdata/views/windows.py"],
    "tests/views/test_positions_mrope.py": ["mmdata/views/mrope.py"],
    "tests/mmtrain/test_positions.py": ["mmtrain/models/positions.py"],
    "tests/mmtrain/test_models.py": [  # Every kind of model through the command, and out again.
        "mmtrain/export.py",
        "mmtrain/models/build.py",
        "mmtrain/models/families.py",
        "mmtrain/models/hf.py",
        "mmtrain/models/kept.py",
        "mmtrain/models/source.py",
    ],
    "tests/mmtrain/test_native.py": [  # The parts of the native model, and the families that feed it.
        "mmdata/families/native_fixed.py",
        "mmdata/families/native_navit.py",
        "mmtrain/models/audio.py",
        "mmtrain/models/configs.py",
        "mmtrain/models/layers.py",
        "mmtrain/models/native.py",
        "mmtrain/models/native_build.py",
        "mmtrain/models/placeholders.py",
    ],
    "tests/mmtrain/test_towers.py": [  # Beside their originals, and through a config.
        "mmdata/views/fuyu.py",
        "mmtrain/models/towers/__init__.py",
        "mmtrain/models/towers/mixup.py",
        "mmtrain/models/towers/navit.py",
        "mmtrain/models/towers/pictures.py",
        "mmtrain/models/towers/presets.py",
    ],
    "tests/mmtrain/test_experts.py": ["mmtrain/models/beside.py", "mmtrain/models/experts.py"],
    "tests/mmtrain/test_late.py": ["mmtrain/models/fusion/late.py", "mmtrain/models/pairs.py"],
    "tests/mmtrain/test_fusion.py": [  # All kinds, over the same row.
        "mmtrain/models/fusion/__init__.py",
        "mmtrain/models/fusion/bidirectional.py",
        "mmtrain/models/fusion/gated.py",
        "mmtrain/models/fusion/sight.py",
        "mmtrain/models/fusion/sparse.py",
    ],
    "tests/mmtrain/test_connectors.py": [  # All kinds, over the same pictures.
        "mmtrain/models/connectors/__init__.py",
        "mmtrain/models/connectors/compressed.py",
        "mmtrain/models/connectors/hierarchical.py",
        "mmtrain/models/connectors/merged.py",
        "mmtrain/models/connectors/patches.py",
        "mmtrain/models/connectors/pooled.py",
        "mmtrain/models/connectors/queries.py",
    ],
    "tests/mmtrain/test_video.py": [  # All kinds, over the same frames.
        "mmtrain/models/video/__init__.py",
        "mmtrain/models/video/attending.py",
        "mmtrain/models/video/footage.py",
        "mmtrain/models/video/hierarchical.py",
        "mmtrain/models/video/planned.py",
        "mmtrain/models/video/reducing.py",
        "mmtrain/models/video/times.py",
    ],
    "tests/mmtrain/test_codebook.py": ["mmtrain/models/tokens/codebook.py"],
    "tests/mmtrain/test_tokenize_images.py": [  # The command, and what it is made of.
        "mmtrain/models/tokens/__init__.py",
        "mmtrain/models/tokens/convolutions.py",
        "mmtrain/models/tokens/terms.py",
        "mmtrain/models/tokens/tokenisers.py",
        "mmtrain/picture_tokens/__init__.py",
        "mmtrain/picture_tokens/encode.py",
        "mmtrain/picture_tokens/generate.py",
        "mmtrain/picture_tokens/spec.py",
        "mmtrain/picture_tokens/train.py",
        "mmtrain/picture_tokens/words.py",
    ],
    "tests/mmtrain/test_flow.py": [  # Latents in, and latents out.
        "mmtrain/models/heads/flow.py",
        "mmtrain/models/towers/latent.py",
        "mmtrain/picture_tokens/latents.py",
    ],
    "tests/mmtrain/test_streaming_video.py": ["mmtrain/models/video/streaming.py"],
    "tests/mmtrain/test_video_heads.py": ["mmtrain/models/video/heads.py", "mmtrain/models/video/offset.py"],
    "tests/mmtrain/test_native_video.py": ["mmtrain/models/video/batches.py"],
    "tests/mmtrain/test_watching_heads.py": [  # Four heads, one dataset, one run.
        "mmtrain/models/heads/actions.py",
        "mmtrain/models/heads/films.py",
        "mmtrain/models/heads/offset.py",
        "mmtrain/models/heads/quality.py",
        "mmtrain/models/heads/two_stream.py",
    ],
    "tests/mmtrain/test_flops.py": [  # Beside what torch counts.
        "mmtrain/models/connectors/counted.py",
        "mmtrain/models/fusion/counted.py",
    ],
    "tests/mmtrain/test_qformer.py": [  # One model and its objectives.
        "mmtrain/models/connectors/objectives.py",
        "mmtrain/models/connectors/qformer.py",
    ],
    "tests/mmtrain/test_sft.py": [  # The command learns, resumes, refuses.
        "mmtrain/inspect_packs.py",
        "mmtrain/job.py",
        "mmtrain/loop.py",
        "mmtrain/models/__init__.py",
        "mmtrain/models/spec.py",
        "mmtrain/models/tiny.py",
        "mmtrain/run.py",
        "mmtrain/run_spec.py",
        "mmtrain/spec.py",
        "mmtrain/step.py",
    ],
    "tests/mmtrain/adapters/test_export.py": [  # peft computes the same from what is exported.
        "mmtrain/adapters/lora.py",
        "mmtrain/adapters/to_peft.py",
    ],
    "tests/mmtrain/adapters/test_targets.py": ["mmtrain/adapters/spec.py"],  # Entries find their modules.
    "tests/mmtrain/adapters/test_setup.py": ["mmtrain/adapters/__init__.py"],  # All of it through the command.
    "tests/mmtrain/test_gate.py": ["mmtrain/watch.py"],  # What it is told.
    "tests/mmtrain/test_held_out.py": ["mmtrain/answers.py", "mmtrain/examine.py", "mmtrain/samples_page.py"],
    "tests/mmtrain/test_replay.py": ["mmtrain/not_finite.py", "mmtrain/restore.py"],  # Runs opened again.
    "tests/mmtrain/test_suspects.py": ["mmtrain/suspects_page.py"],  # The page of them.
    "tests/mmtrain/test_checkpoint.py": [  # What a checkpoint is made of.
        "mmtrain/checkpoint_folder.py",
        "mmtrain/random_state.py",
        "mmtrain/state_tree.py",
        "mmtrain/tensor_files.py",
    ],
    "tests/mmtrain/test_packed_equals_separate.py": ["mmtrain/objective.py"],
    "tests/test_layers.py": ["mmdata/__init__.py"],  # Lazy names, below.
}


def test_imports_point_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    assert "0 kept" not in done.stdout


def test_import_mmdata_loads_nothing_heavy() -> None:
    code = "import json, sys, mmdata; print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert "mmdata" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


def test_public_names_resolve_and_none_is_a_module() -> None:
    import mmdata

    for name in mmdata.__all__:
        assert getattr(mmdata, name).__name__ == name
        assert name in dir(mmdata)
        assert not (ROOT / "mmdata" / f"{name}.py").exists(), f"{name} hides a command"
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        mmdata.no_such_name  # noqa: B018 the look-up is the test


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_small_and_says_what_it_owns(module: str) -> None:
    path = ROOT / module
    text = path.read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].strip()
    assert first, f"{module} has no docstring, or one whose first line is empty"
    assert len(text.splitlines()) <= MOST_LINES, f"{module} is longer than {MOST_LINES} lines"
    assert path.stem.strip("_") not in {"utils", "util", "helpers", "helper", "managers", "manager", "common", "misc"}


def own_test(module: str) -> str:
    """Where the test of a module lies that has its name.

    >>> own_test("mmdata/sources/_tables.py"), own_test("mmdata/expression/__init__.py"), own_test("mmtrain/sft.py")
    ('tests/sources/test_tables.py', 'tests/test_expression.py', 'tests/mmtrain/test_sft.py')
    """
    path = Path(module.removeprefix("mmdata/").replace("mmtrain/", "tests/mmtrain/").removeprefix("tests/"))
    if path.name == "__init__.py":
        path = path.parent
    return (Path("tests") / path.parent / f"test_{path.stem.strip('_')}.py").as_posix()


def has_code(module: str) -> bool:
    body = ast.parse((ROOT / module).read_text(encoding="utf-8")).body
    return any(not isinstance(node, ast.Expr | ast.ImportFrom) for node in body)


def test_tests_mirror_the_packages() -> None:
    elsewhere = {module for modules in TESTED_BY.values() for module in modules}
    missing = [
        f"{module}: no {own_test(module)}"
        for module in MODULES
        if has_code(module) and not (ROOT / own_test(module)).is_file() and module not in elsewhere
    ]
    assert missing == []


def test_the_list_of_exceptions_is_true() -> None:
    listed = [module for modules in TESTED_BY.values() for module in modules]
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) <= set(MODULES)
    assert [file for file in TESTED_BY if not (ROOT / file).is_file()] == []


def test_no_page_may_load_or_run_anything() -> None:
    """What stands in a page came from data; a browser is told to show it and no more."""
    pages = [path for package in ("mmdata", "mmtrain") for path in (ROOT / package).rglob("*.html.jinja")]
    whole = {path.parent.name: text for path in pages if "<html" in (text := path.read_text(encoding="utf-8"))}
    assert len(whole) > 3
    assert [name for name, text in whole.items() if "content=\"default-src 'none'; " not in text] == []
    assert [name for name, text in whole.items() if "<script" in text] == []
