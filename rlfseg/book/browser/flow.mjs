// One step from a picture's latent to its mask's, made longer until the ground is black.

/**
 * z0 = z1 - v (1 + gamma) and gamma, Eqs. 5 to 7 (AOS); with a `tol` of 0 the plain step.
 * All are Float32Array of one length.
 */
export function aos({ z1, v, zb, tol }) {
  let over = 0, under = 0;
  for (let i = 0; i < z1.length; i++) {
    const left = Math.abs(zb[i] - (z1[i] - v[i]));
    if (left < tol) {
      over += left;
      under += Math.abs(v[i]);
    }
  }
  const gamma = under > 0 ? over / under : 0;
  return { gamma, z0: z1.map((each, i) => each - v[i] * (1 + gamma)) };
}
