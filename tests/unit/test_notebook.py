"""The handle of a run in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser

import tracelet

NAME = "<script>alert('a')</script> & \"b\""


class Parsed(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.links = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.texts.append(data)


class Seen(tracelet.Backend):
    def __init__(self, name, url):
        self.name, self.url, self.sinks = name, url, []


def test_it_shows_name_backends_and_points_and_escapes_all_of_them():
    page = 'https://host/run?a=1&b="><script>'
    tracelet.register_sink("<page>", lambda info: Seen("<page>", page))
    tracelet.register_sink("folder", lambda info: Seen("folder", "javascript:alert(1)"))
    experiment = tracelet.start_logging(
        NAME, "tests", ["<page>", "folder", "tensorboard"], {"quiet": True}
    )
    for n in range(25):
        experiment.log_metric(f"<b>{n}", 0.5, n)
    assert experiment.flush(60)
    shown = Parsed(experiment._repr_html_())
    assert not {"script"} & set(shown.tags)
    assert shown.links == [page]
    assert NAME in shown.texts
    for text in ("<page>", "javascript:alert(1)", "to tensorboard", "<b>3", "0.5 at step 3"):
        assert text in shown.texts, shown.texts
    assert "25 logged, 0 on their way" in shown.texts
    assert "and 5 more series" in shown.texts
    assert " goes on" in shown.texts
    tracelet.stop_logging()
    assert " has ended" in Parsed(experiment._repr_html_()).texts
