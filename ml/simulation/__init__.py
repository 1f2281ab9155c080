"""Replays a year of nights: which policy for promoting candidates would have served the best model?

Every night of the year gets a candidate of a fast learner, and the candidates' answers are kept. Policies are then
replayed over the kept answers, which takes minutes. The front doors are `source.read_source`, `nights.nights_of`,
`candidates.learn_all` and `report.simulate`. Nothing here touches the ledger or a registered version.
"""
