"""How a night is reported: the document of its result, its page, its figures, and the words about how it ended.

The front door is `document.result_document`, which is written from a `trail.Trail`. All pages and sentences are written
from that document. Nothing here decides or stores anything.
"""
