"""How instructions are phrased: the templates that come with each task, and the words some models were trained with."""

from __future__ import annotations

from typing import Literal

from mmdata.boxes import BoxFormat
from mmdata.types import MediaKind

TaskName = Literal[
    "caption",
    "vqa",
    "ocr",
    "grounding",
    "pointing",
    "referring",
    "detection",
    "asr",
    "audio_caption",
    "video_caption",
]
WITH_BOXES = ("grounding", "pointing", "referring", "detection")

MEDIA: dict[TaskName, tuple[MediaKind, ...]] = {
    "caption": ("image",),
    "vqa": ("image", "video", "audio"),
    "ocr": ("image",),
    "grounding": ("image",),
    "pointing": ("image",),
    "referring": ("image",),
    "detection": ("image",),
    "asr": ("audio", "video"),
    "audio_caption": ("audio",),
    "video_caption": ("video",),
}
"""The kinds of media of which a task needs one."""

WANTED: dict[TaskName, tuple[str, ...]] = {
    "vqa": ("question",),
    "grounding": ("phrase",),
    "pointing": ("phrase",),
    "referring": ("box",),
}
"""What the question of a template must hold."""
ALLOWED: dict[TaskName, tuple[str, ...]] = {**WANTED, "detection": ("phrases",)}
"""What it may hold."""

SHIPPED: dict[TaskName, tuple[str, ...]] = {
    "caption": (
        "Describe the image.",
        "What does the image show?",
        "Write a caption for this picture.",
        "What is in this picture?",
        "Give a description of the image.",
        "Say what can be seen here.",
    ),
    "vqa": ("{question}", "Look at what is given and answer: {question}", "Question: {question}\nAnswer:"),
    "ocr": (
        "Read the text in the image.",
        "What text does the image contain?",
        "Write down all text that can be seen, in reading order.",
        "Transcribe the text of this picture.",
        "What is written here?",
    ),
    "grounding": (
        "Where is {phrase}? Answer with bounding boxes.",
        "Locate {phrase} in the image.",
        "Find {phrase} and give the bounding box of each.",
        "Give the bounding boxes of what this describes: {phrase}",
        "Mark {phrase} in the picture with boxes.",
    ),
    "pointing": (
        "Point at {phrase}.",
        "Where would you click to choose {phrase}?",
        "Click on {phrase}.",
        "Mark {phrase} with a point.",
    ),
    "referring": (
        "What is in the region {box}?",
        "Describe what lies in {box}.",
        "Say what can be seen at {box}.",
        "Give a short description of this region: {box}",
        "Which thing does the box {box} show?",
    ),
    "detection": (
        "Find all objects in the image and give their bounding boxes.",
        "Detect the objects in this picture.",
        "Which objects are there, and where? Answer with labels and boxes.",
        "List everything that can be located here, with bounding boxes.",
    ),
    "asr": (
        "Transcribe the speech.",
        "What is said in the recording?",
        "Write down what the speaker says.",
        "Turn this speech into text.",
        "Listen and give the words that are spoken.",
    ),
    "audio_caption": (
        "Describe the sound.",
        "What can be heard?",
        "Write a caption for this recording.",
        "Which sounds are there in this audio?",
        "Say what happens in the recording.",
    ),
    "video_caption": (
        "Describe the video.",
        "What happens in this video?",
        "Write a caption for the clip.",
        "Say what is shown from beginning to end.",
        "Give a description of what can be seen in the video.",
    ),
}
"""The questions of each task; `{answer}` is all that the assistant says."""

DIALECTS: dict[BoxFormat, dict[TaskName, tuple[str, ...]]] = {
    # Prefixes of PaliGemma's tasks (google-research/big_vision, configs/proj/paligemma/README.md).
    "paligemma": {
        "caption": ("caption en", "describe en"),
        "vqa": ("answer en {question}",),
        "ocr": ("ocr",),
        "grounding": ("detect {phrase}",),
        "referring": ("caption {box}",),
        "detection": ("detect {phrases}",),
    },
    # What Florence2Processor makes of <CAPTION>, <OCR>, <OPEN_VOCABULARY_DETECTION>, ...
    "florence2": {
        "caption": ("What does the image describe?",),
        "ocr": ("What is the text in the image?",),
        "grounding": ("Locate the phrases in the caption: {phrase}",),
        "referring": ("What does the region {box} describe?",),
        "detection": ("Locate the objects with category name in the image.",),
    },
}
"""Formats whose models know their tasks by fixed words; these are shipped instead."""
SEPARATORS: dict[BoxFormat, str] = {"paligemma": " ; "}
"""What parts several phrases in a question; elsewhere a comma."""


def shipped(task: TaskName, format: BoxFormat | None) -> tuple[str, ...]:
    """The questions that come with a task, for models that write boxes in a format."""
    return (DIALECTS.get(format, {}) if format else {}).get(task) or SHIPPED[task]
