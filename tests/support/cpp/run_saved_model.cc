// Loads a SavedModel as TF Serving does, without Python, and runs its signatures.
//
//   run_saved_model VERSION_DIR REQUESTS ANSWERS [REPEATS THREADS]
//
// REQUESTS is a TFRecord file of tensorflow.SignatureDef, as a map of tensors by name: the method name is the signature
// to run, the defaults are its inputs; one left out takes the signature's own default. ANSWERS gets one for each, with
// the outputs, or with the error for a method name. With REPEATS, each request runs so many times more, on so many
// threads, and its microseconds are printed, a line each.

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace {

void Check(const absl::Status& status) {
  if (!status.ok()) {
    std::cerr << "error: " << status << std::endl;
    std::exit(1);
  }
}

struct Call {
  std::vector<std::pair<std::string, tensorflow::Tensor>> feeds;
  std::vector<std::string> fetches, aliases;
};

absl::Status Prepare(const tensorflow::SavedModelBundle& bundle, const tensorflow::SignatureDef& request, Call* call) {
  const auto& signatures = bundle.GetSignatures();
  const auto found = signatures.find(request.method_name());
  if (found == signatures.end()) return absl::FailedPreconditionError("no signature " + request.method_name());
  for (const auto& input : found->second.inputs()) {
    const tensorflow::TensorProto* given = nullptr;
    const auto fallback = found->second.defaults().find(input.first);
    if (fallback != found->second.defaults().end()) given = &fallback->second;
    const auto feed = request.defaults().find(input.first);
    if (feed != request.defaults().end()) given = &feed->second;
    if (given == nullptr) return absl::InvalidArgumentError("missing input " + input.first);
    tensorflow::Tensor tensor;
    if (!tensor.FromProto(*given)) return absl::InvalidArgumentError("no tensor: " + input.first);
    call->feeds.emplace_back(input.second.name(), std::move(tensor));
  }
  for (const auto& output : found->second.outputs()) {
    call->aliases.push_back(output.first);
    call->fetches.push_back(output.second.name());
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 6) {
    std::cerr << "usage: run_saved_model VERSION_DIR REQUESTS ANSWERS [REPEATS THREADS]" << std::endl;
    return 2;
  }
  const int repeats = argc == 6 ? std::stoi(argv[4]) : 0;
  tensorflow::SessionOptions options;
  if (argc == 6) {
    options.config.set_intra_op_parallelism_threads(std::stoi(argv[5]));
    options.config.set_inter_op_parallelism_threads(std::stoi(argv[5]));
  }
  tensorflow::SavedModelBundle bundle;
  Check(tensorflow::LoadSavedModel(options, {}, argv[1], {"serve"}, &bundle));

  auto* env = tensorflow::Env::Default();
  std::unique_ptr<tensorflow::RandomAccessFile> requests;
  Check(env->NewRandomAccessFile(argv[2], &requests));
  std::unique_ptr<tensorflow::WritableFile> answers;
  Check(env->NewWritableFile(argv[3], &answers));
  tensorflow::io::SequentialRecordReader reader(requests.get());
  tensorflow::io::RecordWriter writer(answers.get());
  tensorflow::tstring record;
  for (absl::Status read = reader.ReadRecord(&record); !absl::IsOutOfRange(read); read = reader.ReadRecord(&record)) {
    Check(read);
    tensorflow::SignatureDef request;
    if (!request.ParseFromString(std::string(record))) Check(absl::DataLossError("no SignatureDef"));
    Call call;
    std::vector<tensorflow::Tensor> outputs;
    absl::Status status = Prepare(bundle, request, &call);
    if (status.ok()) status = bundle.GetSession()->Run(call.feeds, call.fetches, {}, &outputs);
    tensorflow::SignatureDef response;
    if (!status.ok()) response.set_method_name(status.ToString());
    for (size_t i = 0; i < outputs.size(); ++i) {
      outputs[i].AsProtoField(&(*response.mutable_defaults())[call.aliases[i]]);
    }
    Check(writer.WriteRecord(response.SerializeAsString()));
    for (int repeat = 0; repeat < repeats; ++repeat) {
      const auto begun = std::chrono::steady_clock::now();
      Check(bundle.GetSession()->Run(call.feeds, call.fetches, {}, &outputs));
      const auto took = std::chrono::steady_clock::now() - begun;
      std::cout << std::chrono::duration_cast<std::chrono::nanoseconds>(took).count() / 1000.0 << ' ';
    }
    if (repeats > 0) std::cout << std::endl;
  }
  Check(writer.Close());
  Check(answers->Close());
  return 0;
}
