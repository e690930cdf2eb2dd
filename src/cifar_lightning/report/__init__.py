"""The reports of a test, for people and programs, made from plain values.

- A test: `outcome.py` computes what its figures and page show, and `report.py` has results.json (`results.py`), the
  figures (`plots.py`, `curves.py`), the page (`page.py`) and the table (`table.py`) made.
- A test on corrupted images: `corrupted.py`. Many runs of one recipe: `group.py`.
- Runs that are compared: `comparison.py` computes, `comparison_words.py` words it, `comparison_table.py` and
  `comparison_page.py` show it. Intervals and significance tests are in `statistics.py`.
- What predict and data print: `prediction_table.py`, `prediction_page.py`, `survey_table.py`. Beside an exported model:
  `model_card.py`.

It may import the top-level modules, `data` and `model`, and knows no Trainer and no run. Read `report.py` first.
"""
