// The rate of wrong labels and its 95 % interval from the answers so far, by the formulas of dynalens.auditing.estimate:
// stratified_rate, curve, shifted and interval. Each list has one number for each stratum.
const Z = 1.959964, FARTHEST = 40, HALVINGS = 60, FEW = [0, 0.0513, 0.3554, 0.8177];
const sum = values => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => sum(a.map((value, h) => value * b[h]));
const logistic = x => 0.5 * (1 + Math.tanh(0.5 * x));

function stratifiedRate({ size, asked, wrong }) {
  return dot(size, wrong.map((k, h) => k / asked[h])) / sum(size);
}

function fittedCurve({ asked, wrong, score }) {
  const mean = sum(score) / score.length;
  const spread = Math.sqrt(sum(score.map(value => (value - mean) ** 2)) / score.length);
  const x = score.map(value => (value - mean) / (spread > 0 ? spread : 1));
  const added = 0.5 / x.length;
  let a = 0, b = 0;
  for (let step = 0; step < 50; step++) {
    const q = x.map(value => logistic(a + b * value));
    const residual = q.map((p, h) => wrong[h] - asked[h] * p + added * (1 - 2 * p));
    const weight = q.map((p, h) => (asked[h] + 2 * added) * p * (1 - p) + 1e-12);
    const slopes = [sum(residual), dot(residual, x) - 0.5 * b];
    const aa = sum(weight), ab = dot(weight, x), bb = dot(weight, x.map(value => value ** 2)) + 0.5;
    const determinant = aa * bb - ab * ab;
    const stepA = (bb * slopes[0] - ab * slopes[1]) / determinant, stepB = (aa * slopes[1] - ab * slopes[0]) / determinant;
    const longest = Math.max(Math.abs(stepA), Math.abs(stepB)), cut = Math.min(1, 2 / Math.max(longest, 1e-300));
    a += cut * stepA;
    b += cut * stepB;
    if (longest < 1e-10) break;
  }
  return x.map(value => a + b * value);
}

function rateInterval(strata) {
  const { size, asked, wrong } = strata, total = sum(size), rate = stratifiedRate(strata);
  const share = size.map(n => n / total);
  const factor = share.map((w, h) => w * w * (size[h] - asked[h]) / Math.max(size[h] - 1, 1) / asked[h]);
  if (!factor.some(value => value)) return [rate, rate];
  const line = fittedCurve(strata);
  const at = d => line.map(value => logistic(value + d));
  let [low, high] = [-FARTHEST, FARTHEST];
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2;
    if (dot(share, at(middle)) < rate) low = middle; else high = middle;
  }
  const start = (low + high) / 2;
  const end = outside => {
    let inside = start;
    for (let i = 0; i < HALVINGS; i++) {
      const middle = (inside + outside) / 2, q = at(middle);
      if ((rate - dot(share, q)) ** 2 <= Z * Z * dot(factor, q.map(p => p * (1 - p)))) inside = middle; else outside = middle;
    }
    return dot(share, at(inside));
  };
  const numberWrong = sum(wrong), numberRight = sum(asked) - numberWrong;
  const least = (fraction, number) => number < FEW.length ? fraction * FEW[number] / Math.max(number, 1) : fraction;
  return [
    Math.min(rate, Math.max(numberWrong / total, rate > 0 ? Math.min(end(-FARTHEST), least(rate, numberWrong)) : 0)),
    Math.max(rate, Math.min(1 - numberRight / total, rate < 1 ? Math.max(end(FARTHEST), 1 - least(1 - rate, numberRight)) : 1))];
}
