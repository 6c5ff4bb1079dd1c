// Tokens per second over time, as a line on a canvas.

const SECONDS = 120; // across the width

// Prepares a canvas for the screen's resolution; gives the context and the size in CSS pixels.
export function prepareCanvas(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export function themeColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function createSparkline(canvas) {
  let samples = [];

  function push(value) {
    const time = performance.now() / 1000;
    samples = [...samples.filter((sample) => time - sample.time <= SECONDS), { time, value }];
    draw();
  }

  function draw() {
    const { clientWidth: width, clientHeight: height } = canvas;
    if (width === 0) return; // The panel is hidden.
    const context = prepareCanvas(canvas, width, height);
    const top = niceCeiling(Math.max(1, ...samples.map((sample) => sample.value)));
    const y = (value) => height - 1 - (value / top) * (height - 16);
    drawScale(context, width, y(top), top);
    if (samples.length < 2) return;
    const end = samples[samples.length - 1].time;
    const x = (time) => width - ((end - time) * width) / SECONDS;
    context.beginPath();
    for (const { time, value } of samples) context.lineTo(x(time), y(value));
    context.strokeStyle = themeColor("--accent");
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, height);
    context.lineTo(x(samples[0].time), height);
    context.globalAlpha = 0.14;
    context.fillStyle = themeColor("--accent");
    context.fill();
    context.globalAlpha = 1;
  }

  return { push, draw };
}

function drawScale(context, width, y, top) {
  context.strokeStyle = themeColor("--line");
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(0, Math.round(y) + 0.5);
  context.lineTo(width, Math.round(y) + 0.5);
  context.stroke();
  context.fillStyle = themeColor("--ink-soft");
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "bottom";
  context.fillText(String(top), 0, y - 1);
}

// 1, 2 or 5 times a power of ten: the scale moves rarely.
export function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}
