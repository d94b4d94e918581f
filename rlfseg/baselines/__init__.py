"""Other methods' ideas, small and on the same data, scored by the same counts as ours.

None is a reproduction: what each leaves out of the original stands at the head of its module.
"""
