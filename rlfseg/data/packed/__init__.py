"""The packed file of A.3.2: images and phrase masks in one HDF5 file.

    /{image_id}/image                    uint8 [H, W, 3]
    /{image_id}/mask/{caption}           uint8 [H, W], 0 or 1, gzip 1
    /{image_id}/mask_truth/{caption}     the same for the exact mask, where it is known
    /{image_id}/mask_refined/{caption}   the same for the refined mask, once there is one

An item is a phrase of an image. Where several items of an image have one caption, as in REFER, the
second one's key ends in `#2`, and so on. Keys are percent-encoded; the exact texts stand in the
attributes `image_id` and `caption`, the data set's own ids in `ids`: UTF-8 strings of fixed length,
which h5py gives as bytes. `{file}.index.npz` lists the items, so that opening takes no walk;
`{file}.report.json` says what was counted and left out.
"""
