from pathlib import Path

from segfocal.config.document import settings_page
from segfocal.config.schema import setting_names


def test_the_page_of_settings_is_the_schemas():
    page = settings_page()
    assert Path("docs/config.md").read_text() == page
    assert all(f"| `{name}` |" in page for name in setting_names())
