"""What a night says of itself: the document of its result, its page, its figures, the words of its end.

The front door is `report.result_document`; `trail.Trail` is what it is written from.
"""
