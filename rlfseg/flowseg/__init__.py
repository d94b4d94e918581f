"""FlowSeg in miniature: a pixel neural field on drawn scenes of many classes, in every variant."""
