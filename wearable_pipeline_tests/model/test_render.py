from wearable_pipeline.model import TABLES
from wearable_pipeline.model.render import COVERAGE, PLACE, render
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._coverage import render_coverage


def test_the_committed_dictionary_is_what_the_declarations_say() -> None:
    assert PLACE.read_text(encoding="utf-8") == render(tuple(TABLES.values())), (
        "run python -m wearable_pipeline.model.render"
    )


def test_every_column_of_every_table_stands_in_the_dictionary() -> None:
    text = render(tuple(TABLES.values()))
    for table in TABLES.values():
        assert f"## {table.name}\n" in text
        for column in table.columns:
            assert f"| `{column.name}` |" in text
            for field in column.fields:
                assert f"| `{field.name}` |" in text


def test_a_line_says_type_unit_bounds_meaning_and_path() -> None:
    assert (
        "| `heart_heart_rate_summary_avg_hr_bpm` | number | /min | 0 … 400 | 25 … 230 "
        "| Mean heart rate. | `heart_data.heart_rate_data.summary.avg_hr_bpm` |"
    ) in render((TABLES["body"],))


def test_the_committed_coverage_is_what_the_providers_say() -> None:
    said = render_coverage(providers().values(), TABLES.values())
    assert COVERAGE.read_text(encoding="utf-8") == said, (
        "run python -m wearable_pipeline.model.render"
    )
