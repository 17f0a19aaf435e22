/* JSMA in the browser: the MNIST network of Table I, its gradient, the attack, and the page's controls.
 *
 * The arithmetic is float32 as in distill/attacks/jsma.py: every layer's values, the softmax and its derivative are
 * rounded to float32, so that what underflows there underflows here. Only the order of the sums differs, as it
 * does between any two CPUs. tests/test_live.py holds the result against the Python attack.
 * Data come as scripts (data.js, plain.js, ...), because a page opened from a file may not fetch.
 *
 * Why no library: measured side by side, ONNX Runtime Web 1.30 (smallest build 14.3 MB, 3.7 MB compressed) needed 2.0
 * to 4.0 s from a local server to its first gradient, TensorFlow.js 4.22 (1.5 MB) 1.4 to 2.3 s, these lines (20 kB)
 * 0.2 to 0.8 s. Every attack compared chose the same pixels in all of them, and in Python.
 */
"use strict";

window.distillLive = (() => {
  const SIZE = 28, PIXELS = SIZE * SIZE, CLASSES = 10, BUDGET = 112, PER_STEP = 2, PAUSE = 160; // ms between steps
  const here = new URL(".", document.currentScript.src).href;

  // --- the network, one layer an object: forward keeps what backward needs ------------------------------

  function convolution(weight, bias, cin, cout, size) {
    const side = size - 2, area = side * side; // 3x3, unpadded
    return {
      forward(x) {
        const y = new Float32Array(cout * area);
        for (let o = 0, k = 0; o < cout; o++) {
          y.fill(bias[o], o * area, (o + 1) * area);
          for (let c = 0; c < cin; c++, k += 9) {
            const [a, b, d, e, f, g, h, i, j] = weight.subarray(k, k + 9);
            for (let row = 0, p = o * area; row < side; row++) {
              let u = (c * size + row) * size, v = u + size, w = v + size;
              for (let column = 0; column < side; column++, p++, u++, v++, w++) {
                y[p] += a * x[u] + b * x[u + 1] + d * x[u + 2] + e * x[v] + f * x[v + 1] + g * x[v + 2]
                  + h * x[w] + i * x[w + 1] + j * x[w + 2];
              }
            }
          }
        }
        return y;
      },
      backward(dy) {
        const dx = new Float32Array(cin * size * size);
        for (let o = 0, p = 0; o < cout; o++) {
          for (let row = 0; row < side; row++) {
            for (let column = 0; column < side; column++, p++) {
              const d = dy[p];
              if (d === 0) continue; // most are, behind a max-pool and a ReLU
              for (let c = 0, k = o * cin * 9; c < cin; c++, k += 9) {
                const u = (c * size + row) * size + column, v = u + size, w = v + size;
                dx[u] += d * weight[k]; dx[u + 1] += d * weight[k + 1]; dx[u + 2] += d * weight[k + 2];
                dx[v] += d * weight[k + 3]; dx[v + 1] += d * weight[k + 4]; dx[v + 2] += d * weight[k + 5];
                dx[w] += d * weight[k + 6]; dx[w + 1] += d * weight[k + 7]; dx[w + 2] += d * weight[k + 8];
              }
            }
          }
        }
        return dx;
      },
    };
  }

  function linear(weight, bias) {
    const inputs = weight.length / bias.length;
    return {
      forward: (x) => bias.map((b, o) => {
        let sum = b;
        for (let i = 0, k = o * inputs; i < inputs; i++, k++) sum += weight[k] * x[i];
        return sum;
      }),
      backward(dy) {
        const dx = new Float32Array(inputs);
        dy.forEach((d, o) => {
          if (d !== 0) for (let i = 0, k = o * inputs; i < inputs; i++, k++) dx[i] += d * weight[k];
        });
        return dx;
      },
    };
  }

  function relu() {
    let y;
    return {
      forward: (x) => (y = x.map((v) => (v > 0 ? v : 0))),
      backward: (dy) => dy.map((d, i) => (y[i] > 0 ? d : 0)),
    };
  }

  function maxPool(channels, size) {
    const side = size / 2; // 2x2; of equal values the first, as in PyTorch
    const source = new Int32Array(channels * side * side);
    return {
      forward: (x) => Float32Array.from(source, (_, p) => {
        const corner = 2 * size * Math.floor(p / side) + 2 * (p % side);
        let best = corner;
        for (const other of [corner + 1, corner + size, corner + size + 1]) if (x[other] > x[best]) best = other;
        source[p] = best;
        return x[best];
      }),
      backward(dy) {
        const dx = new Float32Array(channels * size * size);
        dy.forEach((d, p) => { dx[source[p]] = d; });
        return dx;
      },
    };
  }

  function network(w) {
    const layers = [
      convolution(w[0], w[1], 1, 32, 28), relu(), convolution(w[2], w[3], 32, 32, 26), maxPool(32, 24), relu(),
      convolution(w[4], w[5], 32, 64, 12), relu(), convolution(w[6], w[7], 64, 64, 10), maxPool(64, 8), relu(),
      linear(w[8], w[9]), relu(), linear(w[10], w[11]), relu(), linear(w[12], w[13]),
    ];
    return {
      forward: (x) => layers.reduce((value, layer) => layer.forward(value), x),
      backward: (dz) => layers.reduceRight((d, layer) => layer.backward(d), dz),
    };
  }

  // --- the outputs that can be differentiated; every array is float32, so every element is rounded -------

  const float = Math.fround;
  const largest = (values) => values.reduce((best, v, i) => (v > values[best] ? i : best), 0);

  function exponentials(z) {
    const top = z[largest(z)];
    const shifted = z.map((v) => v - top);
    const powers = shifted.map(Math.exp);
    return { shifted, powers, sum: powers.reduce((a, b) => float(a + b), 0) };
  }

  function softmax(z) {
    const { powers, sum } = exponentials(z);
    return powers.map((v) => v / sum);
  }

  /** The derivative of the target's output by the logits z. */
  function slope(z, target, output, temperature) {
    const scaled = z.map((v) => v / temperature);
    let d;
    if (output === "softmax") {
      const p = softmax(scaled);
      d = p.map((v, i) => float((i === target) - p[target]) * v);
    } else if (output === "log_softmax") {
      const { shifted, sum } = exponentials(scaled);
      const logarithm = float(Math.log(sum));
      d = shifted.map((v, i) => (i === target) - float(Math.exp(float(v - logarithm))));
    } else {
      throw new Error(`output is ${output}; allowed are softmax, log_softmax`);
    }
    return d.map((v) => v / temperature);
  }

  // --- the attack: look where the image stands and find the next pair, or why there is none; then step ---

  function attack(net, image, target, output, temperature) {
    const state = { x: Float32Array.from(image), target, trace: [], status: null, pair: null };

    function look() {
      const { x, trace } = state;
      const z = net.forward(x);
      const alpha = net.backward(slope(z, target, output, temperature));
      let p = -1, q = -1, moving = false, usable = 0, steepest = 0;
      for (let i = 0; i < PIXELS; i++) {
        if (!(x[i] < 1)) continue;
        usable += 1;
        moving ||= alpha[i] !== 0;
        steepest = Math.max(steepest, Math.abs(alpha[i]));
        if (p < 0 || alpha[i] > alpha[p]) [p, q] = [i, p]; // ties to the lower index
        else if (q < 0 || alpha[i] > alpha[q]) q = i;
      }
      Object.assign(state, { probabilities: softmax(z), answer: largest(z), steepest, pair: null });
      if (state.answer === target) state.status = "SUCCESS";
      else if (trace.length + PER_STEP > BUDGET) state.status = "BUDGET";
      else if (q >= 0 && alpha[p] + alpha[q] > 0) state.pair = [Math.min(p, q), Math.max(p, q)];
      else state.status = usable && !moving ? "ZERO_GRADIENT" : "NO_VALID_PAIR";
    }

    state.step = () => {
      if (state.status) return;
      for (const pixel of state.pair) {
        state.x[pixel] = 1;
        state.trace.push(pixel);
      }
      look();
    };
    look();
    return state;
  }

  // --- data, each file a script that calls receive ------------------------------------------------------

  const received = {}, waiting = {};
  const receive = (name, value) => { received[name] = value; };

  function file(name) {
    return (waiting[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = here + name + ".js";
      script.onload = () => resolve(received[name]);
      script.onerror = () => { delete waiting[name]; reject(new Error(`${script.src} could not be loaded`)); };
      document.head.append(script);
    }));
  }

  const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

  /** IEEE 754 half precision, stored little-endian, as float32. */
  function halves(raw) {
    const view = new DataView(raw.buffer);
    return Float32Array.from({ length: raw.length / 2 }, (_, i) => {
      const h = view.getUint16(2 * i, true), exponent = (h >> 10) & 31, fraction = h & 1023;
      return (h & 0x8000 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
    });
  }

  const ready = file("data").then((data) => {
    const pixels = bytes(data.pixels);
    data.images.forEach((image, i) => { image.x = Float32Array.from(pixels.subarray(i * PIXELS, (i + 1) * PIXELS), (v) => v / 255); });
    return data;
  });

  const networks = {};
  function load(name) {
    return (networks[name] ??= Promise.all([ready, file(name)]).then(([{ shapes }, encoded]) => {
      const flat = halves(bytes(encoded));
      let from = 0;
      return network(shapes.map((shape) => flat.subarray(from, (from += shape.reduce((a, b) => a * b)))));
    }).catch((error) => { delete networks[name]; throw error; }));
  }

  /** One attack to its end, for tests: `image` is the index of a digit of the page. */
  async function run({ network: name, image, target, output, temperature = 1 }) {
    const [{ images }, net] = await Promise.all([ready, load(name)]);
    const state = attack(net, images[image].x, target, output, temperature);
    while (!state.status) state.step();
    return { status: state.status, trace: state.trace, pixels: [...state.x] };
  }

  // --- the page -----------------------------------------------------------------------------------------

  const CELL = 16; // canvas pixels a pixel of the digit

  function paint(canvas, x, trace = [], cursor = null) {
    const cell = canvas.width / SIZE, context = canvas.getContext("2d");
    const fill = (pixel, colour, inset) => {
      const left = (pixel % SIZE) * cell + inset, top = Math.floor(pixel / SIZE) * cell + inset;
      context.fillStyle = colour;
      context.fillRect(left, top, cell - 2 * inset, cell - 2 * inset);
    };
    x.forEach((v, pixel) => { const grey = Math.round(255 * v); fill(pixel, `rgb(${grey},${grey},${grey})`, 0); });
    trace.forEach((pixel, i) => { // marked by shape too, not by colour alone
      const last = i >= trace.length - PER_STEP;
      fill(pixel, last ? "#fff" : "#000", 0);
      fill(pixel, last ? "#d7263d" : "#ff9f1c", last ? cell / 5 : cell / 10);
    });
    if (cursor !== null) {
      context.strokeStyle = "#4dabf7";
      context.lineWidth = 3;
      context.strokeRect((cursor % SIZE) * cell, Math.floor(cursor / SIZE) * cell, cell, cell);
    }
  }

  function probability(p) {
    if (p === 0) return "0 (exactly)";
    return p < 1e-4 ? p.toExponential(1).replace("-", "\u2212") : p.toFixed(4);
  }

  const place = (pixel) => `row ${Math.floor(pixel / SIZE) + 1}, column ${(pixel % SIZE) + 1}`;

  function explanation({ status, target, answer, trace, steepest }, output) {
    const changed = `${trace.length} of ${PIXELS} pixels`;
    if (status === "SUCCESS") return trace.length ? `with ${changed} changed the network reads a ${target}.` : `the network reads a ${target} already.`;
    if (status === "BUDGET") return `the budget of ${BUDGET} pixels is spent, and the network still reads a ${answer}.`;
    if (status === "ZERO_GRADIENT") {
      return "every derivative the computer sees is exactly zero" + (output === "softmax"
        ? ": the softmax has saturated in float32, and nothing is left to rank; choose log-softmax."
        : ": no pixel moves this output at all.");
    }
    return steepest === 0 ? "no pixel is left that could be raised." : `there are derivatives, but no two pixels together raise the ${target}. After ${changed} the network reads a ${answer}.`;
  }

  async function start(root) {
    const find = (name) => root.querySelector(`[data-live="${name}"]`);
    const [says, canvas, play, target, which, output, temperature] =
      ["status", "image", "play", "target", "network", "output", "temperature"].map(find);
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
    const say = (text) => { says.textContent = text; };
    const data = await ready;
    const drawing = new Float32Array(PIXELS);
    let state = null, timer = null, cursor = null, turn = 0;

    const chosen = () => root.querySelector("input[name=live-digit]:checked").value;
    const drawn = () => chosen() === "own";
    const kind = () => (output.value === "log_softmax" ? "log_softmax" : "softmax");
    const divisor = () => (output.value === "softmax_t" ? Number(temperature.value) : 1);

    function show() {
      const { x, trace, probabilities, answer, steepest } = state;
      paint(canvas, x, trace, document.activeElement === canvas ? cursor : null);
      canvas.setAttribute("aria-label", `${drawn() ? "Your drawing" : "The digit"}, ${trace.length} pixels changed`);
      find("bars").querySelectorAll("tr").forEach((row, c) => {
        const [, bar, number, role] = row.cells;
        bar.firstChild.style.width = `${100 * probabilities[c]}%`;
        number.textContent = probability(probabilities[c]);
        role.textContent = [c === answer && "answer", c === state.target && "target"].filter(Boolean).join(", ");
        row.className = role.textContent.replace(",", "");
      });
      find("changed").textContent = `${trace.length} of at most ${BUDGET}`;
      find("gradient").textContent = steepest === 0 ? "exactly 0" : Math.log10(steepest).toFixed(1).replace("-", "\u2212");
    }

    function halt() {
      clearTimeout(timer);
      timer = null;
      play.textContent = "Play";
    }

    /** A new attack from what the controls say. */
    async function reset() {
      halt();
      state = null;
      const mine = ++turn, { name } = data.networks[which.selectedIndex];
      find("divisor").hidden = output.value !== "softmax_t";
      find("tools").hidden = canvas.previousElementSibling.hidden = !drawn();
      canvas.tabIndex = drawn() ? 0 : -1;
      canvas.classList.toggle("live-draw", drawn());
      if (!temperature.checkValidity()) return say(`T must be a number from ${temperature.min} to ${temperature.max}.`);
      if (!networks[name]) say("Loading the network.");
      let net;
      try {
        net = await load(name);
      } catch (error) {
        return say(`The network is not there: ${error.message}`);
      }
      if (mine !== turn) return undefined; // the controls changed meanwhile
      const image = drawn() ? drawing : data.images[Number(chosen())].x;
      const begin = () => attack(net, image, Number(target.value), kind(), divisor());
      state = begin();
      if (state.answer === state.target) { // a target that is the answer already is none
        target.value = (state.answer + 1) % CLASSES;
        state = begin();
      }
      [...target.options].forEach((option) => { option.disabled = Number(option.value) === state.answer; });
      show();
      return say(`The network reads a ${state.answer}. Press Play or Step to make it a ${state.target}.`);
    }

    function finish() {
      halt();
      show();
      say(`${state.status}: ${explanation(state, kind())}`);
    }

    function step() {
      if (!state) return;
      halt();
      state.step();
      if (state.status) return finish();
      show();
      say(`Step ${state.trace.length / PER_STEP}: ${state.trace.slice(-PER_STEP).map(place).join(" and ")} set to white.`);
    }

    function go() {
      state.step();
      if (state.status) return finish();
      if (!calm.matches) show();
      timer = setTimeout(go, calm.matches ? 0 : PAUSE);
    }

    async function toggle() {
      if (timer !== null) {
        halt();
        show();
        return say(`Paused after ${state.trace.length} pixels.`);
      }
      if (state?.status && state.trace.length) await reset();
      if (!state) return undefined;
      play.textContent = "Pause";
      say(`Attacking: from ${state.answer} to ${state.target}.`);
      timer = setTimeout(go, 0);
      return undefined;
    }

    /** The pen: full within half a pixel of the line, nothing beyond a pixel and a half. */
    function stroke(from, to) {
      const steps = Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])) || 1;
      for (let s = 0; s <= steps; s++) {
        const centre = from.map((v, axis) => v + ((to[axis] - v) * s) / steps);
        drawing.forEach((old, pixel) => {
          const distance = Math.hypot((pixel % SIZE) + 0.5 - centre[0], Math.floor(pixel / SIZE) + 0.5 - centre[1]);
          const ink = Math.round(255 * Math.min(1, Math.max(0, 1.6 - distance))) / 255;
          drawing[pixel] = Math.max(old, ink);
        });
      }
      paint(canvas, drawing, [], cursor);
    }

    function pen() {
      let last = null;
      const position = (event) => {
        const box = canvas.getBoundingClientRect();
        return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (!drawn()) return;
        canvas.setPointerCapture(event.pointerId);
        halt();
        cursor = null;
        last = position(event);
        stroke(last, last);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!last) return;
        stroke(last, (last = position(event)));
      });
      for (const end of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(end, () => { if (last) reset(); last = null; });
      }
      canvas.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
        if (!drawn() || !move) return;
        event.preventDefault();
        cursor ??= 14 * SIZE + 14;
        const from = [cursor % SIZE, Math.floor(cursor / SIZE)];
        const to = from.map((v, axis) => Math.min(SIZE - 1, Math.max(0, v + move[axis])));
        cursor = to[1] * SIZE + to[0];
        if (event.key === " " || event.shiftKey) {
          stroke(from.map((v) => v + 0.5), to.map((v) => v + 0.5));
          reset();
        } else {
          paint(canvas, state ? state.x : drawing, state ? state.trace : [], cursor);
        }
      });
    }

    function furnish() {
      data.networks.forEach(({ name, label, accuracy }) => which.add(new Option(`${label} (${(100 * accuracy).toFixed(2)} %)`, name)));
      for (let c = 0; c < CLASSES; c++) {
        target.add(new Option(c, c));
        const row = find("bars").insertRow();
        row.innerHTML = `<th scope="row">${c}</th><td class="live-bar"><div></div></td><td></td><td></td>`;
      }
      target.value = 3;
      const own = find("digits").querySelector("label");
      data.images.forEach(({ index, label, x }, i) => {
        const option = document.createElement("label");
        option.innerHTML = `<input type="radio" name="live-digit" value="${i}" aria-label="${label}, test image ${index}"><canvas width="28" height="28" aria-hidden="true"></canvas>`;
        own.before(option);
        paint(option.lastChild, x);
      });
      find("digits").querySelector("input").checked = true;
      canvas.width = canvas.height = SIZE * CELL;
      find("records").textContent = data.networks.map(({ record }) => record).join(", ");
    }

    furnish();
    pen();
    [which, target, output, temperature, find("digits")].forEach((control) => control.addEventListener("change", reset));
    play.addEventListener("click", toggle);
    find("step").addEventListener("click", step);
    find("reset").addEventListener("click", reset);
    find("clear").addEventListener("click", () => { drawing.fill(0); cursor = null; reset(); });
    await reset();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const root = document.getElementById("live");
    start(root).catch((error) => { root.querySelector("[data-live=status]").textContent = `The page could not start: ${error.message}`; });
  });

  return { receive, run };
})();
