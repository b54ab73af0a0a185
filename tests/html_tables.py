"""Tables, text, ids and addresses of an HTML page, without a browser."""

from html.parser import HTMLParser


class Tables(HTMLParser):
    """caption -> (heads, rows); a cell is (text, data-value or None). Also the text of the page and its ids."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.ids, self.words, self.urls, self._cell, self._into = {}, [], [], [], None, None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.urls += [value for name, value in attributes.items() if name in ("href", "src", "action", "data")]
        if tag in ("caption", "th", "td"):
            self._cell, self._into = [], (tag, attributes.get("data-value"))
        if tag == "script":
            self._into = ("script", None)
        if tag == "tr":
            self.row = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)
        if not self._into or self._into[0] != "script":
            self.words.append(data)

    def handle_endtag(self, tag):
        if tag == "script":
            self._into = None
        if tag in ("caption", "th", "td") and self._cell is not None:
            text, (_, value) = "".join(self._cell).strip(), self._into
            if tag == "caption":
                self.tables[text] = self.current = ([], [])
            elif tag == "th":
                self.current[0].append(text)
            else:
                self.row.append((text, value))
            self._cell = self._into = None
        if tag == "tr" and self.row:
            self.current[1].append(self.row)
