"""The paper: flow (Eqs. 2, 4), sampling (5-10), refinement (Eq. 3, Algorithm 1); FlowSeg's field.

Nothing here knows of files, models or data sets: tensors and arrays in, tensors and arrays out.
"""
