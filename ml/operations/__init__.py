"""What operators do with a use case beside its nights: move the champion, backfill, score, repair, back up, tidy.

Each module has one subject. Most have one function that plans or looks, and another one that carries out what an
operator has confirmed. Nothing here runs a night.
"""
