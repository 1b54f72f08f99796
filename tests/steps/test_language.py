"""Languages of sentences that everybody can check, through a build."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdata.steps.language import Language
from tests.steps.given import apply, build, record

pytest.importorskip("py3langid", reason="the extra `language` is not installed")

SENTENCES = {
    "en": "A black cat sleeps on the windowsill while rain is falling outside.",
    "de": "Eine schwarze Katze schläft auf dem Fensterbrett, während es draußen regnet.",
    "fr": "Un chat noir dort sur le rebord de la fenêtre pendant qu'il pleut dehors.",
    "es": "Un gato negro duerme en el alféizar de la ventana mientras llueve afuera.",
    "ru": "Чёрная кошка спит на подоконнике, пока на улице идёт дождь.",
    "ja": "外では雨が降っていて、黒い猫が窓辺で眠っています。",
    "ar": "قطة سوداء تنام على حافة النافذة بينما يهطل المطر في الخارج.",
}


def test_a_build(tmp_path: Path) -> None:
    records = [*(record(text) for text in SENTENCES.values()), record("Katze")]
    step = {"kind": "language", "accept": ["en", "ja", "ru"]}
    built = build(
        tmp_path, records, [step, {"kind": "where", "expression": "language is None or language_score > 0.5"}]
    )
    assert built.reasons == ["" if name in step["accept"] else "language" for name in SENTENCES] + [""]
    assert [row.detail.split()[0] for row in built.ledger if row.reason] == ["de", "fr", "es", "ar"]
    assert built.column("language") == ["en", "ru", "ja", None]


def test_unsure_and_unknown() -> None:
    drop = apply(Language(min_score=1.0, min_chars=5), "taxi hotel piano")
    assert getattr(drop, "reason", "") == "language_score"
    with pytest.raises(ValidationError, match=r"no language is called 'english'; known: .*, en, "):
        Language(accept=("english",))
