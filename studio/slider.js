// A slider over the frames of a video. It keeps its own place: an answer of the server that comes
// late must not move it back.

export default {
  template: `
    <input type="range" class="studio-slider" min="0" :max="frames - 1" :value="frame"
      aria-label="Frame of both models" @input="go">
  `,
  props: { video: Number, frames: Number },
  data: () => ({ frame: 0 }),
  watch: {
    video() {
      this.frame = 0;
    },
  },
  methods: {
    go(event) {
      this.frame = Number(event.target.value);
      this.$emit("seek", this.frame);
    },
  },
};
